"""A milter that hears every callback, writes down what it heard, and does what it is told.

Arguments: its name, its socket as libmilter names it, its log, and its plan.

The log is a JSON object a line: which session, which callback, its arguments, and the macros that can be read there.

The plan is a list of [CALLBACK, TEXT, ORDERS]: the orders are followed at that callback when one of its arguments contains the
text; where a callback has no arguments, the sender does. A message orders in its fields X-Do-NAME what is to be done at its end. Orders are a JSON list of lists: the name of a
function of pymilter and its arguments, or

  ["reply", CODE, STATUS, LINE, ...]   what a refusal says
  ["return", "REJECT"]                 what the callback returns
  ["sleep", SECONDS]
  ["stall"]                            nothing more comes
  ["exit"]                             the process ends at once
"""

import json
import os
import sys
import threading
import time

import Milter

NAME, SOCKET, LOG, PLAN = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])

MACROS = (
    "i j v _ {daemon_name} {daemon_addr} {daemon_port} {if_name} {if_addr} {client_addr} {client_name} {client_port} {client_ptr} "
    "{client_resolve} {client_connections} {tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer} {auth_type} "
    "{auth_authen} {auth_author} {mail_addr} {mail_host} {mail_mailer} {rcpt_addr} {rcpt_host} {rcpt_mailer} {nrcpts}"
).split()

log = open(LOG, "a", encoding="ascii")
lock = threading.Lock()


def text(value):
    """Anything as text; a body byte by byte."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return json.dumps(value)


class Every(Milter.Base):
    """One connection of the MTA's."""

    def __init__(self):
        self.session = Milter.uniqueID()
        self.orders = []
        self.sender = ""

    def hear(self, callback, *arguments):
        """Writes a callback down, and does what the plan says of it."""
        arguments = [text(argument) for argument in arguments]
        macros = {name: self.getsymval(name) for name in MACROS} if callback not in ("negotiate", "close") else {}
        line = {
            "session": self.session,
            "callback": callback,
            "arguments": arguments,
            "macros": {name: value for name, value in macros.items() if value is not None},
        }
        with lock:
            log.write(json.dumps(line) + "\n")
            log.flush()
        for wanted, part, orders in PLAN:
            if wanted == callback and any(part in argument for argument in arguments or [self.sender]):
                return self.follow(orders)
        return Milter.CONTINUE

    def follow(self, orders):
        """Does what it is told, and gives what is to be returned."""
        answer = Milter.CONTINUE
        for name, *arguments in orders:
            if name == "return":
                answer = getattr(Milter, arguments[0])
            elif name == "reply":
                self.setreply(*arguments)
            elif name == "sleep":
                time.sleep(arguments[0])
            elif name == "stall":
                time.sleep(3600)
            elif name == "exit":
                os._exit(1)
            elif name == "setsymlist":
                # pymilter's own gives bytes to what wants text.
                self._ctx.setsymlist(*arguments)
            elif name == "replacebody":
                self.replacebody(arguments[0].encode())
            else:
                getattr(self, name)(*arguments)
        return answer

    def negotiate(self, opts):
        offered = list(opts[:2])
        answer = super().negotiate(opts)
        self.hear("negotiate", *offered)
        return answer

    def connect(self, hostname, family, hostaddr):
        return self.hear("connect", hostname, hostaddr)

    def hello(self, hostname):
        return self.hear("hello", hostname)

    def envfrom(self, sender, *parameters):
        self.orders = []
        self.sender = text(sender)
        return self.hear("envfrom", sender, *parameters)

    def envrcpt(self, recipient, *parameters):
        return self.hear("envrcpt", recipient, *parameters)

    def data(self):
        return self.hear("data")

    def unknown(self, command):
        return self.hear("unknown", command)

    def header(self, name, value):
        if name.lower() == ("X-Do-" + NAME).lower():
            self.orders += json.loads(value)
        return self.hear("header", name, value)

    def eoh(self):
        return self.hear("eoh")

    def body(self, chunk):
        return self.hear("body", chunk)

    def eom(self):
        answer = self.hear("eom")
        ordered = self.follow(self.orders)
        return answer if ordered == Milter.CONTINUE else ordered

    def abort(self):
        return self.hear("abort")

    def close(self):
        return self.hear("close")


if os.environ.get("LEADING_SPACE"):
    Milter.enable_protocols(Every, Milter.P_HDR_LEADSPC)
Milter.factory = Every
Milter.set_flags(Milter.CURR_ACTS)
os.umask(0)
Milter.runmilter(NAME, SOCKET, 600)
