// Reads one JSON list of {secret, headers, body} from standard input and prints, for each, whether it verifies.
const { Webhook } = require("standardwebhooks");

let text = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => (text += chunk));
process.stdin.on("end", () => {
  const answers = JSON.parse(text).map(({ secret, headers, body }) => {
    try {
      new Webhook(secret).verify(body, headers);
      return true;
    } catch {
      return false;
    }
  });
  process.stdout.write(JSON.stringify(answers));
});
