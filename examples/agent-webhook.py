#!/usr/bin/env python3
"""A transport agent for Grange that posts each message to an HTTP URL. Python 3.11's standard library only.

The protocol is described in docs/job-sockets.md; this file shows how little a farm of your own needs.

In grange.toml:

    [channel.webhook]
    socket = "webhook.deliver"

    [router]
    routes = [{ domain = "hook.example", channel = "webhook" }, ...]

Then, beside `grange run` and started as it is: as root (it binds, then becomes the user that run_dir belongs to), or as that user.

    agent-webhook.py --config /etc/grange/grange.toml --url http://127.0.0.1:8080/mail

The body of the request is the message as it leaves; sender, recipients, id and attempt are in X- headers.
2xx is delivered, 4xx (but 408 and 429) failed, everything else deferred; Retry-After holds the whole lane back.
"""

import argparse
import concurrent.futures.thread
import datetime
import email.utils
import http.client
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
import urllib.parse

LINE_BYTES_MAX = 1 << 20        # of a frame, with its line feed
MESSAGE_BYTES_MAX = 256 << 20   # of a message we are willing to hold in memory
CONNECTIONS_MAX = 64            # the scheduler needs one or two
WINDOW_BYTES = 4 << 20
CONNECT_SECONDS = 30
ANSWER_SECONDS = 600            # after the last byte: what RFC 5321 gives a server after the final dot
DRAIN_SECONDS = 8               # `grange run` gives its own workers ten

# JSON-RPC 2.0's error codes, and Grange's.
PARSE, INVALID_REQUEST, METHOD, PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
NOT_TAKEN, DEADLINE, WINDOW = -32001, -32002, -32003

# What an HTTP refusal means to mail (RFC 3463); the rest is 5.0.0.
REFUSALS = {401: "5.7.8", 403: "5.7.1", 404: "5.1.1", 410: "5.1.6", 413: "5.3.4", 415: "5.6.1"}


def log(text, **fields):
    """One line; values are quoted as JSON, so that nothing from a message can forge a line."""
    words = " ".join(f"{name}={json.dumps(value)}" for name, value in fields.items())
    print(f"agent-webhook: {text} {words}".rstrip(), file=sys.stderr, flush=True)


def error_of(code, message):
    """An error reply's part."""
    return {"error": {"code": code, "message": message[:400]}}


class Refused(Exception):
    """A request that gets an error reply."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class GateClosed(Exception):
    """The deadline has passed, or the connection that asked has gone: nothing may be done that cannot be undone."""


class Connection:
    """One of the scheduler's connections: reads lines in a thread of its own, answers from any thread."""

    def __init__(self, agent, stream):
        self.agent = agent
        self.stream = stream
        self.sending = threading.Lock()
        self.counting = threading.Lock()
        self.outstanding = 0
        self.version = None
        self.up = True

    def send(self, frame):
        line = json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self.sending:
            try:
                self.stream.sendall(line)
            except OSError:
                self.up = False

    def notify(self, method, params):
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def refuse(self, request_id, code, message):
        self.send({"jsonrpc": "2.0", "id": request_id, **error_of(code, message)})

    def is_up(self):
        """Whether the other end is still there, as the kernel knows now."""
        if not self.up:
            return False
        poll = select.poll()
        poll.register(self.stream, select.POLLRDHUP)
        return not poll.poll(0)

    def serve(self):
        self.notify("hello", self.agent.hello())
        try:
            with self.stream.makefile("rb") as lines:
                while line := lines.readline(LINE_BYTES_MAX + 1):
                    if not line.endswith(b"\n"):
                        if len(line) > LINE_BYTES_MAX:
                            self.refuse(None, INVALID_REQUEST, "the line is longer than a frame may be")
                        break
                    if not self.line(line):
                        break
        except OSError:
            pass
        self.up = False
        self.agent.forget(self)

    def line(self, line):
        """Takes one frame; says whether to go on."""
        try:
            frame = json.loads(line)
        except ValueError as error:
            self.refuse(None, PARSE, f"not JSON: {error}")
            return True
        if not isinstance(frame, dict) or not isinstance(frame.get("method"), str):
            self.refuse(None, INVALID_REQUEST, "not a request")
            return True
        request_id, method = frame.get("id"), frame["method"]
        params = frame.get("params")
        if method == "use":
            self.version = params.get("version") if isinstance(params, dict) else None
            if self.version != 1:
                self.refuse(request_id, INVALID_REQUEST, "choose one of the versions [1]")
                return False
        elif request_id is None:
            return True
        elif method == "ping":
            self.send({"jsonrpc": "2.0", "id": request_id, "result": {}})
        elif method != "deliver":
            self.refuse(request_id, METHOD, "no such method")
        elif self.version is None:
            self.refuse(request_id, INVALID_REQUEST, "choose a version first")
        elif self.agent.draining.is_set():
            self.refuse(request_id, NOT_TAKEN, "not taken: this agent drains")
        else:
            self.take(request_id, params, frame.get("deadline_ms"))
        return True

    def take(self, request_id, params, deadline_ms):
        deadline = None
        if isinstance(deadline_ms, (int, float)):
            deadline = time.monotonic() + deadline_ms / 1000
        with self.counting:
            if self.outstanding >= self.agent.window:
                self.refuse(request_id, WINDOW, "over the window")
                return
            self.outstanding += 1
        try:
            self.agent.pool.submit(self.work, request_id, params, deadline)
        except RuntimeError:
            with self.counting:
                self.outstanding -= 1
            self.refuse(request_id, NOT_TAKEN, "not taken: this agent drains")

    def work(self, request_id, params, deadline):
        try:
            answer = {"result": self.agent.deliver(params, lambda: self.gate(deadline))}
        except Refused as refused:
            answer = error_of(refused.code, str(refused))
        except GateClosed as closed:
            answer = error_of(DEADLINE, str(closed))
        except Exception as error:  # whatever it was, the scheduler must get an answer
            log("cannot deliver", error=repr(error))
            answer = error_of(INTERNAL, repr(error))
        # The next job may come as soon as this is answered: whoever looks whether there is room waits until it is counted.
        with self.counting:
            self.send({"jsonrpc": "2.0", "id": request_id, **answer})
            self.outstanding -= 1

    def gate(self, deadline):
        """The dot gate: called right before what cannot be undone."""
        if deadline is not None and time.monotonic() >= deadline:
            raise GateClosed("the deadline has passed")
        if not self.is_up():
            raise GateClosed("the connection has gone")


class Agent:
    """The farm: one worker, with as many deliveries at once as it has threads."""

    def __init__(self, options, run_dir):
        self.options = options
        self.url = urllib.parse.urlsplit(options.url)
        if self.url.scheme not in ("http", "https") or not self.url.hostname:
            sys.exit(f"agent-webhook: {options.url} is not an http or https URL")
        self.window = options.threads
        self.pool = concurrent.futures.ThreadPoolExecutor(options.threads, "deliver")
        self.draining = threading.Event()
        self.connections = set()
        self.lock = threading.Lock()
        self.users = {0, os.geteuid(), os.stat(run_dir).st_uid}

    def hello(self):
        return {
            "conversation": "deliver",
            "versions": [1],
            "features": [],
            "window": self.window,
            "window_bytes": WINDOW_BYTES,
            "worker": "webhook/0",
            "pid": os.getpid(),
            "workers": 1,
            "crashed": [],
        }

    def accept(self, stream):
        _, user, _ = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        with self.lock:
            if user not in self.users or len(self.connections) >= CONNECTIONS_MAX:
                log("refused a connection", uid=user, connections=len(self.connections))
                stream.close()
                return
            connection = Connection(self, stream)
            self.connections.add(connection)
        threading.Thread(target=connection.serve, daemon=True).start()

    def forget(self, connection):
        with self.lock:
            self.connections.discard(connection)
        connection.stream.close()

    def outstanding(self):
        with self.lock:
            return sum(connection.outstanding for connection in self.connections)

    def drain(self):
        """Takes nothing new, answers what was taken, then closes."""
        self.draining.set()
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            connection.notify("drain", {})
        until = time.monotonic() + DRAIN_SECONDS
        while self.outstanding() and time.monotonic() < until:
            time.sleep(0.02)
        for connection in connections:
            connection.stream.close()

    def deliver(self, job, gate):
        """Does one `deliver` job; what it returns is the job's result."""
        try:
            handle, message_id, sender = job["handle"], job["id"], job["sender"]
            recipients = [(recipient["index"], recipient["address"]) for recipient in job["recipients"]]
            attempt = int(job.get("attempt", 1))
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(PARAMS, f"malformed parameters: {error!r}") from error
        gate()
        message, trouble = self.body(handle)
        if message is None:
            return outcomes(recipients, "deferred", "4.3.0", trouble)
        headers = [("X-Sender", sender or "<>"), ("X-Message-Id", message_id), ("X-Attempt", str(attempt))]
        headers += [("X-Recipient", address) for _, address in recipients]
        try:
            status, reason, retry_after = self.post(headers, message, gate)
        except GateClosed:
            raise
        except (OSError, http.client.HTTPException) as error:
            # The whole destination failed: the lane backs off, and no recipient's own clock moves.
            log("cannot post", id=message_id, error=repr(error))
            return {"outcomes": [], "lane": reply("4.4.1", f"cannot post to {self.url.netloc}: {error}")}
        log("posted", id=message_id, recipients=len(recipients), status=status)
        return self.result(recipients, status, reason, retry_after)

    def body(self, handle):
        """The message as it leaves, printed by `grange body`; or nothing and why."""
        command = [self.options.grange, "body", handle, "--config", self.options.config]
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=CONNECT_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, f"cannot read the message: {error}"
        if done.returncode != 0 or len(done.stdout) > MESSAGE_BYTES_MAX:
            words = done.stderr.decode(errors="replace").strip() or f"{len(done.stdout)} bytes"
            return None, f"cannot read the message: {words}"
        return done.stdout, ""

    def post(self, headers, message, gate):
        """Posts the message; its last byte, which makes the request complete, passes the gate."""
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        connection = kinds[self.url.scheme](self.url.hostname, self.url.port, timeout=CONNECT_SECONDS)
        try:
            connection.putrequest("POST", urllib.parse.urlunsplit(("", "", self.url.path or "/", self.url.query, "")))
            connection.putheader("Content-Type", "message/rfc822")
            connection.putheader("Content-Length", str(len(message)))
            for name, value in headers:
                connection.putheader(name, header_text(value))
            if not message:
                gate()
            connection.endheaders()
            connection.send(message[:-1])
            gate()
            connection.send(message[-1:])
            connection.sock.settimeout(ANSWER_SECONDS)
            response = connection.getresponse()
            response.read(LINE_BYTES_MAX)
            return response.status, response.reason, seconds(response.getheader("Retry-After"))
        finally:
            connection.close()

    def result(self, recipients, status, reason, retry_after):
        text, remote = f"{status} {reason}"[:400], self.url.netloc
        if 200 <= status < 300:
            return outcomes(recipients, "delivered", "2.0.0", text, remote)
        if 400 <= status < 500 and status not in (408, 429):
            return outcomes(recipients, "failed", REFUSALS.get(status, "5.0.0"), text, remote)
        answer = outcomes(recipients, "deferred", "4.3.0", text, remote)
        if retry_after:
            answer["throttle"] = retry_after
        return answer


def reply(status, text, remote=None):
    words = {"status": status, "text": " ".join(text.split()) or "no reason given"}
    return words | ({"remote": remote} if remote else {})


def outcomes(recipients, kind, status, text, remote=None):
    """The same outcome for each recipient. Delivered here is final: we owe the report of success, if one was asked for."""
    words = reply(status, text, remote) | ({"report": "final"} if kind == "delivered" else {})
    return {"outcomes": [{"index": index, "outcome": {kind: words}} for index, _ in recipients]}


def header_text(value):
    """An address as a header may carry it: what is not printable ASCII, and the percent sign, is percent-encoded UTF-8."""
    return "".join(c if " " < c < "\x7f" and c != "%" else urllib.parse.quote(c) for c in value)


def seconds(retry_after):
    """Retry-After's seconds, given as such or as a date; at most a day."""
    if not retry_after:
        return None
    try:
        wait = int(retry_after)
    except ValueError:
        try:
            when = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        now = datetime.datetime.now(when.tzinfo)
        wait = int((when - now).total_seconds())
    return min(max(wait, 0), 86400)


def listen(run_dir, name):
    """Binds the channel's socket. It is renamed into place, so that a stale one is replaced and none is ever half made."""
    path = os.path.join(run_dir, "sockets", name)
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.connect(path)
        sys.exit(f"agent-webhook: another agent serves {path}")
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    finally:
        probe.close()
    listener = socket.socket(socket.AF_UNIX)
    made = f"{path}.{os.getpid()}"
    listener.bind(made)
    # The folder is the access rule; the socket itself is for its owner and group.
    os.chmod(made, 0o660)
    owner = os.stat(run_dir)
    if os.geteuid() == 0:
        os.chown(made, owner.st_uid, owner.st_gid)
    listener.listen(CONNECTIONS_MAX)
    os.rename(made, path)
    return listener, path


def unlink(path, inode):
    """Removes our socket, if it is still ours. Where only root may, a stale one stays, and the next agent replaces it."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except OSError as error:
        log("the socket stays", error=str(error))


def drop_privileges(run_dir):
    """As root, becomes the user that `run_dir` belongs to."""
    owner = os.stat(run_dir)
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def main():
    parser = argparse.ArgumentParser(description="A transport agent for Grange that posts messages to an HTTP URL.")
    parser.add_argument("--config", default="/etc/grange/grange.toml", help="grange's configuration")
    parser.add_argument("--url", required=True, help="where to post")
    parser.add_argument("--socket", default="webhook.deliver", help="the channel's socket, as the configuration names it")
    parser.add_argument("--grange", default="grange", help="the grange program")
    parser.add_argument("--threads", type=int, default=8, help="deliveries at once")
    options = parser.parse_args()
    with open(options.config, "rb") as file:
        run_dir = tomllib.load(file).get("run_dir", "/run/grange")
    listener, path = listen(run_dir, options.socket)
    inode = os.stat(path).st_ino
    agent = Agent(options, run_dir)
    # Python loads this when it first needs it; the user we become may not be able to read it.
    "localhost".encode("idna")
    drop_privileges(run_dir)
    # A signal interrupts accept by closing what it waits on.
    wake, woken = socket.socketpair()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wake.send(b"x"))
    log("serving", socket=path, url=options.url, threads=options.threads)
    while not select.select([listener, woken], [], [])[0].count(woken):
        agent.accept(listener.accept()[0])
    listener.close()
    unlink(path, inode)
    agent.drain()
    agent.pool.shutdown(wait=False, cancel_futures=True)
    log("drained")
    # Threads that still wait for a slow server do not hold us: what they were doing counts as lost.
    os._exit(0)


if __name__ == "__main__":
    main()
