// Answers WebSockets with what they say, and requests with what they have sent: usage: server.js HOST PORT.
// Its end is noted in the file `stops`.
const fs = require("fs");
const http = require("http");
const { WebSocketServer } = require("ws");

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", data => chunks.push(data));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    response.setHeader("Content-Type", "text/plain");
    const text = `${request.method} ${request.url} ${body.length}\n`;
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range || "");
    if (range) {
      response.statusCode = 206;
      response.setHeader("Content-Range", `bytes ${range[1]}-${range[2]}/${text.length}`);
      response.end(text.slice(Number(range[1]), Number(range[2]) + 1));
      return;
    }
    if (request.method === "HEAD" || request.httpVersion === "1.0") {
      response.end(text);
      return;
    }
    response.setHeader("Trailer", "X-Size");
    response.write(text);
    response.addTrailers({ "X-Size": String(body.length) });
    response.end();
  });
});
server.keepAliveTimeout = 60000;
const sockets = new WebSocketServer({ server, maxPayload: 4 << 20 });
sockets.on("connection", socket => {
  socket.on("message", (data, isBinary) => {
    const close = /^close (\d+) (.*)$/.exec(isBinary ? "" : String(data));
    if (close) socket.close(Number(close[1]), close[2]);
    else socket.send(data, { binary: isBinary });
  });
});
server.listen(Number(process.argv[3]), process.argv[2]);
process.on("SIGTERM", () => {
  fs.appendFileSync(`${__dirname}/stops`, ".");
  process.exit();
});
