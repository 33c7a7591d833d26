"""Three `kontiki start` processes, brokers and controllers both, on free ports of this machine. Started, killed and ended by their own handles."""

import os
import shutil
import socket
import subprocess
import time

IDS = (1, 2, 3)
# Clients', peers' and admin ports of the three.
PORTS = 9


def free_ports():
    """First of consecutive free ports below the range the kernel takes outgoing ports from."""
    start = os.getpid() % 1000
    for turn in range(1000):
        base = 10_000 + (start + turn) % 1000 * 10
        sockets = []
        try:
            for port in range(base, base + PORTS):
                one = socket.socket()
                sockets.append(one)
                one.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise SystemExit("no free ports")


class Cluster:
    """`kill` and `restart` are for the main thread: a node dies with the thread that started it."""

    def __init__(self, directory):
        self.binary, self.directory, self.base = os.environ["KONTIKI"], directory, free_ports()
        shutil.rmtree(directory, ignore_errors=True)
        self.nodes = {}
        self.bootstrap = ",".join(f"127.0.0.1:{self.client_port(n)}" for n in IDS)
        for node in IDS:
            self.restart(node)

    def client_port(self, node):
        return self.base + node - 1

    def restart(self, node):
        directory = os.path.join(self.directory, f"node-{node}")
        os.makedirs(directory, exist_ok=True)
        controllers = ",".join(f"{n}@127.0.0.1:{self.base + 2 + n}" for n in IDS)
        command = ["setpriv", "--pdeathsig", "KILL", "--", self.binary, "start", "--node-id", str(node),
                   "--roles", "broker,controller", "--controllers", controllers,
                   "--listen", f"127.0.0.1:{self.client_port(node)}", "--peer-listen", f"127.0.0.1:{self.base + 2 + node}",
                   "--admin-listen", f"127.0.0.1:{self.base + 5 + node}", "--data-dir", os.path.join(directory, "data")]
        with open(os.path.join(directory, "log"), "ab") as log:
            self.nodes[node] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, node):
        self.nodes[node].kill()
        self.nodes[node].wait()

    def await_listening(self, node, limit=60):
        deadline = time.time() + limit
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.client_port(node)), 1).close()
                return
            except OSError:
                if time.time() > deadline or self.nodes[node].poll() is not None:
                    raise OSError(f"node {node} does not listen; {self.directory}/node-{node}/log")
                time.sleep(0.05)

    def ended(self):
        """Nodes that ended by themselves."""
        return [node for node, process in self.nodes.items() if process.poll() is not None]

    def stop(self):
        for process in self.nodes.values():
            process.kill()
            process.wait()
