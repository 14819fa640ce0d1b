# Verifies a message with dkimpy: prints what each DKIM signature and the ARC chain are worth. Arguments: DNS records as JSON, the message's file.
import json, sys
import dkim

records = json.loads(sys.argv[1])
message = open(sys.argv[2], "rb").read()

def look_up(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    text = records.get(name.rstrip("."))
    return text.encode() if text is not None else None

count = sum(1 for line in message.split(b"\r\n\r\n")[0].split(b"\r\n") if line.lower().startswith(b"dkim-signature:"))
results = []
for index in range(count):
    signature = dkim.DKIM(message)
    good = signature.verify(idx=index, dnsfunc=look_up)
    results.append({"good": good, "algorithm": signature.signature_fields[b"a"].decode()})
validity, sets, reason = dkim.arc_verify(message, dnsfunc=look_up)
print(json.dumps({"dkim": results, "arc": validity.decode(), "sets": len(sets), "reason": reason}))
