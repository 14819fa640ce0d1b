#!/usr/bin/env python3
"""Reads the queue of a Grange that runs, or does not, without Grange: lists every message, or prints one.

    spool-reader.py DATA_DIR              one line a message: id, state, size, sender, recipients
    spool-reader.py DATA_DIR --json       the same as a JSON list
    spool-reader.py DATA_DIR --raw ID     the body of a message as it was received

States: accepted (not in the ledger yet), queued, held, damaged (its record fails its checks). Needs the right to read
DATA_DIR/spool and nothing but Python's standard library. The format is described in docs/spool-format.md; this program is
part of its test. Exit codes: 0, 64 wrong usage, 65 the message is damaged, 66 no such queue or message.
"""

import json
import os
import re
import struct
import sys
from collections import namedtuple

HEAD = 64
SEGMENT, BODY, MOVED, LOG = 1, 2, 3, 4
MESSAGE, DRAFT, ACCEPT, FOOTER, BLOCK = 1, 2, 3, 4, 5
RECORDS, BEGIN, END, STANDING, GONE = 1, 2, 3, 4, 5
BLOCK_BYTES = 256 << 10
PAYLOAD_BYTES_MAX = 128 << 20
ENTRY = struct.Struct("<QI20sQB")

# Where a message is: `home` is "segment" or "moved", `slot` the place by which the ledger knows it.
Place = namedtuple("Place", "slot home path offset length id")


def moved_place(place):
    """Where a message is once it was moved out of its segment."""
    _, sequence, _ = place.slot
    path = os.path.join(os.path.dirname(place.path), f"{sequence}.{place.offset}.moved")
    return place._replace(home="moved", path=path, offset=HEAD)


class Damaged(Exception):
    """What is there fails its checks."""


# --- sums -----------------------------------------------------------------------------------------------------------

def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _table()


def crc32c(data, crc=0):
    """CRC-32C (Castagnoli), going on from `crc`."""
    crc ^= 0xFFFFFFFF
    table = TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def seed(nonce, offset):
    """What the sums of a head at `offset` of a file with this nonce begin with."""
    return crc32c(struct.pack("<Q", offset), crc32c(nonce))


def payload_sum(nonce, offset, payload):
    return crc32c(payload, seed(nonce, offset) ^ 0xFFFFFFFF)


def align(offset, to=64):
    return (offset + to - 1) // to * to


# --- files, records -------------------------------------------------------------------------------------------------

class File:
    """An open file of the spool whose head is right."""

    def __init__(self, path, kind):
        with open(path, "rb") as file:
            self.bytes = file.read()
        self.path = path
        head = self.bytes[:HEAD]
        if len(head) < HEAD:
            raise FileNotFoundError(path)
        fields = self._fields(head) or self._mended(bytearray(head))
        if not fields or fields[0] != kind:
            raise Damaged(f"{path}: its head is damaged")
        _, self.nonce, self.number, self.created_at, self.previous_synced, self.previous = fields

    @staticmethod
    def _fields(head):
        magic, version, kind, nonce, number, created, synced, previous, crc = struct.unpack(
            "<8sII16sQQQII", head)
        if magic != b"GrangeQ\n" or version != 1 or crc32c(head[:60]) != crc:
            return None
        return kind, nonce, number, created, synced, previous

    def _mended(self, head):
        for bit in range(8 * HEAD):
            head[bit // 8] ^= 1 << bit % 8
            fields = self._fields(bytes(head))
            head[bit // 8] ^= 1 << bit % 8
            if fields:
                return fields
        return None

    def head(self, offset):
        """The head of the record at `offset`: kind, id, length of the accept record, length and sum of the payload."""
        head = self.bytes[offset:offset + HEAD]
        if len(head) < HEAD or head[:4] != b"GrRc":
            return None
        if crc32c(head[:60], seed(self.nonce, offset)) != struct.unpack("<I", head[60:])[0]:
            return None
        _, one, kind, zero, nonce, id, accept, length, crc = struct.unpack("<4sBBH16s20sIII", head[:56])
        if one != 1 or zero != 0 or nonce != self.nonce or accept > length or length > PAYLOAD_BYTES_MAX:
            return None
        return kind, id.decode("ascii"), accept, length, crc

    def record(self, offset):
        """Kind, id, accept record and rest of the payload of the record at `offset`, checked."""
        head = self.head(offset)
        if head is None:
            raise Damaged(f"{self.path} at byte {offset}: the head of its record fails its checksum")
        kind, id, accept, length, crc = head
        payload = self.bytes[offset + HEAD:offset + HEAD + length]
        if len(payload) < length or payload_sum(self.nonce, offset, payload) != crc:
            raise Damaged(f"{self.path} at byte {offset}: its record fails its checksum")
        return kind, id, payload[:accept], payload[accept:]

    def footer(self):
        """The entries of a sealed segment's footer, or None."""
        at = len(self.bytes) - HEAD
        trailer = self.bytes[at:]
        if at < HEAD or trailer[:8] != b"GrSealed":
            return None
        _, nonce, offset, length = struct.unpack("<8s16sQI", trailer[:36])
        if crc32c(trailer[:60], seed(self.nonce, at)) != struct.unpack("<I", trailer[60:])[0]:
            return None
        if nonce != self.nonce or align(offset + length) != at:
            return None
        try:
            kind, _, _, payload = self.record(offset)
        except Damaged:
            return None
        if kind != FOOTER or len(payload) % ENTRY.size:
            return None
        return [(at, length, id.decode("ascii")) for at, length, id, _, _ in ENTRY.iter_unpack(payload)]

    def scan(self):
        """The accept records of a segment that has no footer, past any damage."""
        found, offset = [], HEAD
        while offset < len(self.bytes):
            step = 64
            if self.bytes.startswith(b"GrRc", offset):
                try:
                    kind, id, accept, rest = self.record(offset)
                    step = align(HEAD + len(accept) + len(rest))
                    if kind in (MESSAGE, ACCEPT):
                        found.append((offset, HEAD + len(accept) + len(rest), id))
                except Damaged:
                    pass
            offset += step
        return found


def names(folder):
    """The names in a folder, none if there is no such."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def places(spool):
    """Every accept record that is there, whatever became of its message."""
    intake, found = os.path.join(spool, "intake"), []
    for stripe in sorted(filter(str.isdigit, names(intake)), key=int):
        folder = os.path.join(intake, stripe)
        for name in names(folder):
            segment = re.fullmatch(r"(\d+)\.seg", name)
            try:
                if segment:
                    file = File(os.path.join(folder, name), SEGMENT)
                    number = int(segment[1])
                    if file.number != number:
                        continue
                    entries = file.footer()
                    for offset, length, id in file.scan() if entries is None else entries:
                        slot = (int(stripe), number, offset // 64)
                        found.append(Place(slot, "segment", file.path, offset, length, id))
            except (FileNotFoundError, Damaged):
                continue
        # After the segments: what is moved out of one meanwhile is met here.
        for name in names(folder):
            moved = re.fullmatch(r"(\d+)\.(\d+)\.moved", name)
            try:
                if moved:
                    file = File(os.path.join(folder, name), MOVED)
                    head = file.head(HEAD)
                    if head:
                        slot = (int(stripe), int(moved[1]), int(moved[2]) // 64)
                        found.append(Place(slot, "moved", file.path, HEAD, HEAD + head[3], head[1]))
            except (FileNotFoundError, Damaged):
                continue
    return found


# --- the ledger -----------------------------------------------------------------------------------------------------

class Log:
    """A log of the ledger: its valid frames, up to a torn end once `count` was asked."""

    def __init__(self, path):
        self.file = File(path, LOG)
        self.sequence, self.previous = self.file.number, self.file.previous
        self.frames = list(self._frames())
        self.checkpoint_is_whole = True

    def _frames(self):
        data, nonce, offset = self.file.bytes, self.file.nonce, HEAD
        while offset + 32 <= len(data):
            if data.startswith(b"Lf", offset):
                head = data[offset:offset + 32]
                _, kind, one, length, synced, _, payload_crc, crc = struct.unpack("<2sBBIQQII", head)
                payload = data[offset + 32:offset + 32 + length]
                if (crc32c(head[:28], seed(nonce, offset)) == crc and one == 1 and len(payload) == length
                        and payload_sum(nonce, offset, payload) == payload_crc):
                    yield offset, kind, payload, synced
                    offset = align(offset + 32 + length, 32)
                    continue
            # The end, or damage: the next valid frame begins at a multiple of 32, if there is one.
            offset = next_candidate(data, offset + 32)

    def count(self, told, is_oldest):
        """Leaves out what stands behind a torn end. `told` is up to where the next log says that this one had been synced."""
        ends = [align(offset + 32 + len(payload), 32) for offset, kind, payload, _ in self.frames
                if kind == END and struct.unpack("<Q", payload[:8])[0] == self.sequence]
        proven = max([told, *(synced for _, _, _, synced in self.frames), *(ends if is_oldest else [])])
        at, counted = HEAD, []
        for frame in self.frames:
            offset, _, payload, _ = frame
            if offset > at and at >= proven:
                break
            end = align(offset + 32 + len(payload), 32)
            if offset > at and end <= max(ends, default=0):
                self.checkpoint_is_whole = False
            at = end
            counted.append(frame)
        self.frames = counted

    def begins_checkpoint(self):
        return any(offset == HEAD and kind == BEGIN for offset, kind, _, _ in self.frames)

    def ends(self):
        return [struct.unpack("<Q", payload[:8])[0] for _, kind, payload, _ in self.frames if kind == END]


def next_candidate(data, offset):
    while True:
        at = data.find(b"Lf", offset)
        if at < 0:
            return len(data)
        if at % 32 == 0:
            return at
        offset = at + 1


class Ledger:
    """What the scheduler wrote down of messages."""

    def __init__(self, spool):
        self.slots = {}    # slot -> "routed", "retired" or "moved"
        self.copies = {}   # slot of a message that was moved -> "live" or "ended"
        self.live = {}     # id -> hold, or None
        self.gone = set()  # (stripe, sequence)
        for log in self._to_replay(os.path.join(spool, "ledger")):
            for _, kind, payload, _ in log.frames:
                self._apply(kind, payload)

    @staticmethod
    def _to_replay(folder):
        for _ in range(8):
            logs = []
            try:
                for name in names(folder):
                    if re.fullmatch(r"\d+\.log", name):
                        try:
                            logs.append(Log(os.path.join(folder, name)))
                        except Damaged:
                            # Preallocated and not begun, or its head is lost.
                            pass
                break
            except FileNotFoundError:
                # A checkpoint has removed one meanwhile.
                continue
        logs.sort(key=lambda log: log.sequence)
        chain, log = [], logs.pop() if logs else None
        while log:
            chain.insert(0, log)
            before = [one for one in logs if one.sequence <= log.previous]
            logs, log = before[:-1], before[-1] if before else None
        for log, after in zip(chain, [*chain[1:], None]):
            told = after.file.previous_synced if after and after.previous == log.sequence else 0
            log.count(told, log is chain[0])
        ended = {number for log in chain for number in log.ends()}
        starts = [at for at, log in enumerate(chain)
                  if log.begins_checkpoint() and log.sequence in ended and log.checkpoint_is_whole]
        return chain[starts[-1] if starts else 0:]

    def _apply(self, kind, payload):
        if kind == RECORDS:
            for line in payload.split(b"\n"):
                if line:
                    self._record(json.loads(line))
        elif kind == STANDING:
            numbers = Numbers(payload)
            segment = (numbers.take(), numbers.take())
            for mark in ("retired", "moved"):
                last = 0
                for _ in range(numbers.take()):
                    last += numbers.take()
                    self.slots.setdefault((*segment, last), mark)
        elif kind == GONE:
            numbers = Numbers(payload)
            while numbers.left():
                self.gone.add((numbers.take(), numbers.take()))

    def _record(self, record):
        what, id = record["record"], record.get("id")
        slot, moved = slot_of(record.get("handle"))
        if what in ("routed", "snapshot"):
            self.live[id] = record.get("hold")
            if moved:
                self.copies.setdefault(slot, "live")
                self.slots[slot] = "moved"
            else:
                self.slots.setdefault(slot, "routed")
        elif what == "retired":
            self.live.pop(id, None)
            if moved:
                self.copies[slot] = "ended"
            self.slots[slot] = "retired"
        elif what == "moved" and (slot in self.slots or slot in self.copies):
            self.copies.setdefault(slot, "live")
            if self.slots.get(slot) != "retired":
                self.slots[slot] = "moved"
        elif what == "hold" and id in self.live:
            self.live[id] = record["reason"]

    def has_ended(self, place):
        """Whether what is at this place is not to be delivered from there any more."""
        if place.home == "segment":
            return self.slots.get(place.slot) == "retired" or place.slot[:2] in self.gone
        # A copy that the ledger does not know counts only when its segment has gone: see `messages`.
        return self.copies.get(place.slot) == "ended" or self.slots.get(place.slot) == "retired"

    def state(self, place, accepted):
        if place.id in self.live:
            return "held" if self.live[place.id] else "queued"
        return "accepted" if accepted is not None else "damaged"


class Numbers:
    """Numbers of seven bits a byte, the lowest first."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return self.at < len(self.data)

    def take(self):
        number = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number


def slot_of(handle):
    """The place that a handle names, and whether the message was moved from there."""
    match = re.fullmatch(r"spool:(\d+)\.(\d+)\.(\d+)\.\d+\.[0-9a-z]{20}\.([mf])(x?)", handle or "")
    if not match:
        return None, False
    return (int(match[1]), int(match[2]), int(match[3]) // 64), bool(match[5])


# --- messages -------------------------------------------------------------------------------------------------------

def messages(data_dir):
    """Every message that has not ended, by id: its place and the ledger that says so."""
    spool = os.path.join(data_dir, "spool")
    if not os.path.isdir(spool):
        raise FileNotFoundError(spool)
    found = places(spool)
    # Read last: a message that ended while we looked is known to have ended now.
    ledger, living = Ledger(spool), {}
    segments = {place.slot[:2] for place in found if place.home == "segment"}
    for place in found:
        if place.home == "segment" and ledger.copies.get(place.slot) == "live":
            # Moved meanwhile, it may be, after its folder was read.
            place = moved_place(place)
        known = place.home == "segment" or place.slot in ledger.copies or place.slot[:2] not in segments
        if known and not ledger.has_ended(place):
            if place.home == "moved" or place.id not in living:
                living[place.id] = place
    return living, ledger


def accept_record(place):
    """The accept record of a message, checked, with what stands behind it in its record."""
    try:
        file = File(place.path, SEGMENT if place.home == "segment" else MOVED)
    except FileNotFoundError:
        if place.home == "moved":
            raise
        # Moved since the ledger was read.
        return accept_record(moved_place(place))
    kind, id, accept, rest = file.record(place.offset)
    line = json.loads(accept)
    if id != place.id or line["id"] != id or kind not in (MESSAGE, ACCEPT):
        raise Damaged(f"{place.path} at byte {place.offset}: another record is in its place")
    return file, line, rest


def body(place):
    """The body of a message as it was received, checked."""
    file, line, rest = accept_record(place)
    where = line["body"]
    if where == "here":
        return rest
    if "record" in where:
        kind, id, _, payload = file.record(where["record"]["offset"])
        if kind != DRAFT or id != place.id:
            raise Damaged(f"{place.path}: another record is in the place of its body")
        return payload
    try:
        blocks = File(os.path.join(os.path.dirname(place.path), f"{place.id}.body"), BODY)
    except FileNotFoundError as missing:
        raise Damaged(f"there is no {missing}") from missing
    if blocks.nonce.hex() != where["file"]["nonce"]:
        raise Damaged(f"{blocks.path}: another body file is in its place")
    pieces, offset, left = [], HEAD, line["size"]
    while left:
        kind, id, _, piece = blocks.record(offset)
        if kind != BLOCK or id != place.id or len(piece) != min(left, BLOCK_BYTES):
            raise Damaged(f"{blocks.path} at byte {offset}: another record is in its place")
        pieces.append(piece)
        offset, left = align(offset + HEAD + len(piece)), left - len(piece)
    return b"".join(pieces)


def listed(data_dir):
    """What is said of each message, in the order of ids."""
    living, ledger = messages(data_dir)
    for id in sorted(living):
        try:
            _, line, _ = accept_record(living[id])
        except FileNotFoundError:
            continue
        except Damaged:
            line = None
        envelope = line["accept"]["envelope"] if line else {"sender": None, "recipients": []}
        yield {
            "id": id,
            "state": ledger.state(living[id], line),
            "sender": envelope.get("sender"),
            "recipients": [one["address"] for one in envelope["recipients"]],
            "size": line["size"] if line else 0,
        }


def main(arguments):
    match arguments:
        case [data_dir]:
            for one in listed(data_dir):
                sender, recipients = one["sender"] or "<>", " ".join(one["recipients"])
                print(one["id"], one["state"], one["size"], sender, recipients)
        case [data_dir, "--json"]:
            json.dump(list(listed(data_dir)), sys.stdout, indent=1)
            print()
        case [data_dir, "--raw", id]:
            living, _ = messages(data_dir)
            if id not in living:
                raise FileNotFoundError(f"message {id}")
            sys.stdout.buffer.write(body(living[id]))
        case _:
            print(__doc__, file=sys.stderr)
            return 64
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:
        os._exit(0)
    except Damaged as damaged:
        sys.exit(print(f"damaged: {damaged}", file=sys.stderr) or 65)
    except FileNotFoundError as missing:
        sys.exit(print(f"there is no {missing}", file=sys.stderr) or 66)
