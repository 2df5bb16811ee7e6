//! What an administrator does: units, drop-ins, `systemctl`, `journalctl`.

use super::{LONGEST_POLL, POLL, Rig, comes_true, text};

/// What the journal calls a unit that has been started (`SD_MESSAGE_UNIT_STARTED`).
const UNIT_STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
/// What the journal calls a unit that has been stopped (`SD_MESSAGE_UNIT_STOPPED`).
const UNIT_STOPPED: &str = "9d1aaa27d60140bd96365438aad20286";

/// The drop-in of an instance's flags.
const SETTINGS: &str = "settings";

impl Rig {
    /// Puts a unit file in place.
    pub(crate) fn unit(&self, name: &str, file: &str) {
        self.write(&format!("/etc/systemd/system/{name}"), file);
        self.run("systemctl daemon-reload");
    }

    /// Adds to a unit, replacing what an earlier call with the same `drop_in` name added.
    pub(crate) fn drop_in(&self, unit: &str, drop_in: &str, file: &str) {
        self.write_drop_in(unit, drop_in, file);
        self.run("systemctl daemon-reload");
    }

    fn write_drop_in(&self, unit: &str, drop_in: &str, file: &str) {
        self.write(
            &format!("/etc/systemd/system/{unit}.d/{drop_in}.conf"),
            file,
        );
    }

    /// The set-up that the README describes: `wakeport@NAME.socket` listens on `listen`, wakes NAME.service and
    /// relays to `to`. Each of the further `settings` is a flag as a variable: `WAKEPORT_COOLDOWN=1s`.
    pub(crate) fn instance(&self, name: &str, listen: &str, to: &str, settings: &[&str]) {
        self.allow(&format!("{name}.service"));
        let (unit, to) = (
            format!("wakeport@{name}.service"),
            format!("WAKEPORT_TO={to}"),
        );
        self.write_drop_in(&unit, "target", &environment(&[&to]));
        self.write_drop_in(&unit, SETTINGS, &environment(settings));
        self.listen(name, listen);
    }

    /// Lets `listen` be the address of `wakeport@NAME.socket` and enables it.
    pub(crate) fn listen(&self, name: &str, listen: &str) {
        self.write_drop_in(
            &format!("wakeport@{name}.socket"),
            "listen",
            &format!("[Socket]\nListenStream={listen}\n"),
        );
        // This reloads as well.
        self.systemctl(&format!("enable --quiet --now wakeport@{name}.socket"));
    }

    /// Sets variables of `wakeport@NAME.service`, instead of those that an earlier call has set.
    pub(crate) fn settings(&self, name: &str, settings: &[&str]) {
        self.drop_in(
            &format!("wakeport@{name}.service"),
            SETTINGS,
            &environment(settings),
        );
    }

    /// `systemctl WORDS`, which must succeed.
    pub(crate) fn systemctl(&self, words: &str) {
        self.run(&format!("systemctl {words}"));
    }

    /// Whether `systemctl is-active` prints `state` for a unit.
    pub(crate) fn is(&self, state: &str, unit: &str) -> bool {
        self.state(unit) == state
    }

    /// What `systemctl is-active` prints for a unit.
    pub(crate) fn state(&self, unit: &str) -> String {
        // Without a shell between: most of what scenarios do is to wait for a state.
        let output = self.command(["systemctl", "is-active", unit]).output();
        let state = output.expect("nsenter can be run").stdout;
        text(&state).trim().to_owned()
    }

    /// One property of a unit, as `systemctl show` prints it.
    pub(crate) fn show(&self, property: &str, unit: &str) -> String {
        self.run(&format!("systemctl show --value -p {property} {unit}"))
            .trim()
            .to_owned()
    }

    /// Waits until a unit is in `state`.
    #[track_caller]
    pub(crate) fn wait_until(&self, state: &str, unit: &str) {
        let mut seen = String::new();
        // Those that end in -ing pass.
        let pause = if state.ends_with("ing") {
            POLL
        } else {
            LONGEST_POLL
        };
        let reached = comes_true(pause, || {
            seen = self.state(unit);
            seen == state
        });
        assert!(
            reached,
            "waited in vain: {unit} should be {state}, and is {seen}"
        );
    }

    /// Waits until a service and the `wakeport@NAME.service` before it have both gone, the port staying open.
    #[track_caller]
    pub(crate) fn wait_until_asleep(&self, name: &str) {
        self.wait_until("inactive", &format!("{name}.service"));
        self.wait_until("inactive", &format!("wakeport@{name}.service"));
        self.wait_until("active", &format!("wakeport@{name}.socket"));
    }

    /// How many processes of this name run in the rig.
    pub(crate) fn processes(&self, name: &str) -> usize {
        self.ask(&format!("pgrep --exact {name}")).lines().count()
    }

    /// How often a unit has been started so far.
    pub(crate) fn starts(&self, unit: &str) -> usize {
        self.entries(unit, UNIT_STARTED)
    }

    /// How often a unit has been stopped so far.
    pub(crate) fn stops(&self, unit: &str) -> usize {
        self.entries(unit, UNIT_STOPPED)
    }

    /// What a unit has written to the journal, and systemd about it, one message per line.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.run(&format!(
            "journalctl --sync; journalctl -q -o cat --no-pager -u {unit}"
        ))
    }

    /// How many lines that a unit has written to the journal contain `words`.
    pub(crate) fn said(&self, unit: &str, words: &str) -> usize {
        self.journal(unit)
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }

    /// Prints the end of the journal, for a failed scenario.
    #[expect(
        clippy::print_stderr,
        reason = "the test harness shows it beside the failure"
    )]
    pub(super) fn print_journal(&self) {
        eprintln!("--- the rig's journal:");
        eprintln!("{}", self.ask("journalctl --sync; journalctl -q -o short-monotonic --no-hostname --no-pager -n 300"));
    }

    fn entries(&self, unit: &str, message: &str) -> usize {
        let found = self.ask(&format!(
            "journalctl --sync; journalctl -q -o cat --no-pager UNIT={unit} MESSAGE_ID={message}"
        ));
        found.lines().count()
    }

    /// Lists a unit in the polkit rule: wakeport's own user may start and stop it.
    pub(crate) fn allow(&self, unit: &str) {
        const RULES: &str = "/etc/polkit-1/rules.d/50-wakeport.rules";
        const LIST: &str = "var wakeportUnits = [";
        let rules = self.read(RULES);
        assert!(rules.contains(LIST), "no list of units in {RULES}");
        self.write(
            RULES,
            &rules.replace(LIST, &format!("{LIST}\n    \"{unit}\",")),
        );
        // polkit notices the change by itself, but not at a moment that could be waited for.
        self.systemctl("try-restart polkit.service");
    }
}

fn environment(settings: &[&str]) -> String {
    let mut drop_in = String::from("[Service]\n");
    for setting in settings {
        drop_in += &format!("Environment=\"{setting}\"\n");
    }
    drop_in
}
