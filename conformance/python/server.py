"""The real server, started on a store of its own, killed and started again."""

import os
import re
import subprocess
import tempfile
import threading


class Server:
    def __init__(self, *args):
        self.place = tempfile.TemporaryDirectory(prefix="anabranch-python-")
        self.args = list(args)
        self.listen = "127.0.0.1:0"
        self._run()

    def _run(self):
        command = [os.environ["ANABRANCH_BIN"], "serve", "--data", os.path.join(self.place.name, "data")]
        command += ["--listen", self.listen, *self.args]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"http://(127\.0\.0\.1:\d+)", line):
                self.listen = found[1]
                break
        else:
            raise RuntimeError("it did not start: " + "".join(said))
        # A full pipe would stop it.
        self.reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self.reader.start()

    def url(self, database):
        return f"http://{self.listen}/{database}"

    def file(self, name):
        return os.path.join(self.place.name, name)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()

    def restart(self):
        self.kill()
        self._run()

    def end(self):
        self.kill()
        self.place.cleanup()
