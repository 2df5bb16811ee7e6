// Asks over connections that stay open, while the service sleeps between: usage: undici.js URL ROUNDS FILE
const fs = require("fs");
const { Pool } = require("undici");

const [url, rounds, file] = process.argv.slice(2);
const pool = new Pool(url, { connections: 4 });
const ask = async path => {
  const { statusCode, body } = await pool.request({ path, method: "GET" });
  const text = await body.text();
  if (statusCode !== 200 || text !== `GET ${path} 0\n`) throw new Error(`${path}: ${statusCode} ${text}`);
};
const stops = () => fs.existsSync(file) ? fs.readFileSync(file, "utf8").length : 0;

(async () => {
  for (let round = 0; round < Number(rounds); round++) {
    const before = stops();
    await Promise.all([1, 2, 3, 4].map(number => ask(`/${round}/${number}`)));
    // The next round begins when the service has been stopped, or just is.
    while (stops() === before) await new Promise(resolve => setTimeout(resolve, 5));
  }
  await pool.close();
  console.log("done");
})();
