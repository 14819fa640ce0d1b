# Signs messages with dkimpy, as strangers do: prints JSON of DNS records and of messages by the names of their cases.
import base64, json, re, sys
import dkim
import nacl.signing

rsa = open(sys.argv[1], "rb").read()
records = {"s1._domainkey.good.test": sys.argv[2], "silent._domainkey.good.test": "!silent",
           "garbage._domainkey.good.test": "!garbage", "s1._domainkey.list.test": sys.argv[2]}
seed = nacl.signing.SigningKey.generate()
ed = base64.b64encode(bytes(seed))
records["ed._domainkey.good.test"] = "v=DKIM1; k=ed25519; p=" + base64.b64encode(bytes(seed.verify_key)).decode()
messages = {}

def text(case, body=b"Hello,  dear world \r\n\tof tests\r\n\r\n\r\n", sender=b"anna@good.test"):
    return (b"From: Anna <" + sender + b">\r\nTo: bob@example.test\r\nSubject: " + case.encode() +
            b"\r\nDate: Sun, 29 Nov 2026 05:00:00 +0000\r\nMessage-ID: <" + case.encode() + b"@good.test>\r\n\r\n" + body)

def signed(case, message=None, selector=b"s1", key=rsa, **how):
    message = message or text(case)
    how.setdefault("canonicalize", (b"relaxed", b"relaxed"))
    return dkim.sign(message, selector, b"good.test", key, **how) + message

def keep(case, message):
    messages[case] = message.decode()

keep("dkim-pass", signed("dkim-pass"))
keep("dkim-simple", signed("dkim-simple", canonicalize=(b"simple", b"simple")))
keep("dkim-ed", signed("dkim-ed", selector=b"ed", key=ed, signature_algorithm=b"ed25519-sha256"))
keep("dkim-fail", signed("dkim-fail").replace(b"dear", b"near"))
keep("dkim-longer", signed("dkim-longer", length=True) + b"Buy now!\r\n")
keep("dkim-sha1", signed("dkim-sha1", signature_algorithm=b"rsa-sha1"))
keep("dkim-neutral", signed("dkim-neutral").replace(b"v=1;", b"v=2;"))
keep("dkim-temperror", signed("dkim-temperror", selector=b"silent"))
keep("dkim-garbage", signed("dkim-garbage", selector=b"garbage"))
keep("dkim-permerror", signed("dkim-permerror", selector=b"missing"))
keep("dkim-both", signed("dkim-both", message=signed("dkim-both", selector=b"ed", key=ed, signature_algorithm=b"ed25519-sha256")))

def forwarded(case, message, seen=b"dkim=pass header.d=good.test"):
    message = b"Authentication-Results: list.test; " + seen + b"\r\n" + message
    return b"".join(dkim.arc_sign(message, b"s1", b"list.test", rsa, b"list.test")) + message

keep("arc-pass", forwarded("arc-pass", signed("arc-pass")))
keep("arc-twice", forwarded("arc-twice", forwarded("arc-twice", signed("arc-twice")), b"arc=pass"))
keep("arc-fail", forwarded("arc-fail", signed("arc-fail")).replace(b"dear", b"near"))
keep("arc-gap", re.sub(rb"i=1;", b"i=2;", forwarded("arc-gap", signed("arc-gap"))))
print(json.dumps({"records": records, "messages": messages}))
