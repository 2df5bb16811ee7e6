"""Chromium in front of a site that sleeps, by WebDriver (W3C).

usage: browser.py URL HOST-RULES with-scripts|without-scripts|failing [SCREENSHOTS]

Says `waiting` or `failed` when it has seen that page, and `there` when it sees the page itself.
"""

import base64, json, re, subprocess, sys, tempfile, time, urllib.request

url, rules, mode = sys.argv[1:4]
pictures = sys.argv[4] if len(sys.argv) > 4 else None
profile = tempfile.mkdtemp(dir=".")
driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
for line in driver.stdout:
    if found := re.search(r"successfully on port (\d+)", line):
        break
base = f"http://127.0.0.1:{found[1]}/session"
# No proxy of the environment's.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

def ask(path, value=None):
    data = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"})
    try:
        return json.load(opener.open(request, timeout=60))["value"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{path}: {error.read().decode()}")

arguments = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
    f"--user-data-dir={profile}", f"--host-resolver-rules={rules}", "--window-size=1000,700",
]
options = {"binary": "/usr/bin/chromium", "args": arguments}
if mode == "without-scripts":
    options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
session = ask("", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
base += "/" + session["sessionId"]

def cdp(command, **parameters):
    return ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

def until(what, condition):
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > 50:
            raise SystemExit(f"in vain: {what}: {ask('/url')}: {ask('/title')}: {ask('/source')}")
        time.sleep(0.02)

def take_pictures(name):
    for theme in "light", "dark":
        cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        for kind, width, height in ("", 1000, 700), ("-phone", 360, 640):
            cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=bool(kind))
            picture = base64.b64decode(ask("/screenshot"))
            with open(f"{pictures}/{name}-{theme}{kind}.png", "wb") as file:
                file.write(picture)
            # Nothing is wider than the window.
            content = cdp("Page.getLayoutMetrics")["cssContentSize"]
            if content["width"] > width or content["height"] > height:
                raise SystemExit(f"{name}{kind}: {content} in a window of {width}x{height}")

try:
    ask("/url", {"url": url})
    def loaded():
        return ask("/execute/sync", {"script": "return performance.timeOrigin", "args": []})
    if mode == "failing":
        until("the page that it failed", lambda: ask("/title").endswith(": failed"))
        first = loaded()
        print("failed", flush=True)
        if pictures:
            take_pictures("failed")
        # It may have tried again meanwhile, but not again and again.
        if ask("/title").endswith(": failed") and loaded() - first > 0 and loaded() - first < 4000:
            raise SystemExit("it was loaded anew at once")
    else:
        until("the waiting page", lambda: ask("/title").endswith(": starting"))
        if pictures:
            take_pictures("starting")
        print("waiting", flush=True)
    until("the page itself", lambda: ask("/title") == "the page itself")
    # What is behind `#` only a script can keep.
    expected = url.split("#")[0] if mode == "without-scripts" else url
    if ask("/url") != expected:
        raise SystemExit(f"another address: {ask('/url')}")
    print("there", flush=True)
finally:
    opener.open(urllib.request.Request(base, method="DELETE"), timeout=60)
    driver.terminate()
    driver.wait()
