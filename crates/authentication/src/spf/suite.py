"""Prints the test suite of RFC 7208, which Debian's python3-spf brings, as JSON: zones as [name, type, data], and the cases.

A TXT record is said once more where the suite has one of the type SPF, which nobody asks for any more, unless it says of TXT itself.
"""

import gzip
import json

import yaml

SUITE = "/usr/share/doc/python3-spf/rfc7208-tests.yml.gz"


def text(value):
    """The data of a record: strings that stand one behind the other are one, and numbers are written out."""
    return "".join(value) if isinstance(value, list) else str(value)


def records(name, entries):
    """The records of a name."""
    says_txt = any(isinstance(entry, dict) and "TXT" in entry for entry in entries)
    for entry in entries:
        if entry == "TIMEOUT":
            yield [name, "*", "!timeout"]
            continue
        for kind, data in entry.items():
            if kind == "SPF":
                if not says_txt:
                    yield [name, "TXT", text(data)]
            elif kind == "MX":
                yield [name, "MX", f"{data[0]} {data[1]}"]
            elif data == "TIMEOUT":
                yield [name, kind, "!timeout"]
            elif data != "NONE":
                yield [name, kind, text(data)]


def case(name, facts):
    """One case; several results may be right."""
    result = facts["result"]
    return {
        "name": name,
        "helo": facts["helo"],
        "client": facts["host"],
        "sender": facts["mailfrom"],
        "result": result if isinstance(result, list) else [result],
    }


def main():
    with gzip.open(SUITE) as file:
        suite = list(yaml.safe_load_all(file))
    zones = [
        {
            "zone": [record for name, entries in part["zonedata"].items() for record in records(name, entries)],
            "tests": [case(name, facts) for name, facts in part["tests"].items()],
        }
        for part in suite
    ]
    print(json.dumps(zones))


main()
