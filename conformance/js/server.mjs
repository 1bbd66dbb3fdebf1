// The real server, started on a store of its own, killed and started again.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

// Longer than any test takes: what exceeds it hangs.
export const PATIENCE = { timeout: 120_000 };

export class Server {
    #args;
    #child;
    #listen = "127.0.0.1:0";

    constructor(args) {
        this.place = mkdtempSync(join(tmpdir(), "anabranch-js-"));
        this.#args = args;
    }

    // Starts a server; `tokens` are the lines of its file, if it asks for any.
    static async start({ tokens, args = [] } = {}) {
        const server = new Server(args);
        if (tokens) {
            const file = join(server.place, "tokens");
            writeFileSync(file, tokens.join("\n") + "\n");
            server.#args = [...args, "--auth-token-file", file];
        }
        await server.#run();
        return server;
    }

    async #run() {
        const data = join(this.place, "data");
        const args = ["serve", "--data", data, "--listen", this.#listen, ...this.#args];
        this.#child = spawn(process.env.ANABRANCH_BIN, args, { stdio: ["ignore", "ignore", "pipe"] });
        const said = [];
        this.#listen = await new Promise((found, failed) => {
            const lines = createInterface(this.#child.stderr);
            lines.on("line", (line) => {
                said.push(line);
                const address = line.match(/http:\/\/(127\.0\.0\.1:\d+)/);
                if (address) found(address[1]);
            });
            lines.on("close", () => failed(new Error(`it did not start: ${said.join("\n")}`)));
        });
    }

    // A URL that keeps its path in JavaScript, which needs the slash at its end.
    url(database, scheme = "http") {
        return `${scheme}://${this.#listen}/${database}/`;
    }

    async kill() {
        const gone = once(this.#child, "exit");
        this.#child.kill("SIGKILL");
        await gone;
    }

    async restart() {
        await this.kill();
        await this.#run();
    }

    async end() {
        await this.kill();
        rmSync(this.place, { recursive: true });
    }
}
