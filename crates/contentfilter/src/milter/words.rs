//! MAIL and RCPT as a milter is told them: the address in angle brackets, then each parameter.

use mail::{Address, BodyType, Envelope, Notify, Recipient, Ret};

pub(super) fn of_mail(envelope: &Envelope) -> Vec<String> {
    let mut words = vec![bracketed(envelope.sender.as_ref())];
    if envelope.body == BodyType::EightBitMime {
        words.push("BODY=8BITMIME".to_owned());
    }
    if envelope.smtputf8 {
        words.push("SMTPUTF8".to_owned());
    }
    if let Some(ret) = envelope.ret {
        let ret = match ret {
            Ret::Full => "FULL",
            Ret::Hdrs => "HDRS",
        };
        words.push(format!("RET={ret}"));
    }
    words.extend(envelope.envid.iter().map(|envid| format!("ENVID={envid}")));
    words
}

pub(super) fn of_recipient(recipient: &Recipient) -> Vec<String> {
    let mut words = vec![bracketed(Some(&recipient.address))];
    words.extend(recipient.notify.map(notify));
    words.extend(recipient.orcpt.iter().map(|orcpt| format!("ORCPT={orcpt}")));
    words
}

fn bracketed(address: Option<&Address>) -> String {
    format!("<{}>", address.map(Address::as_str).unwrap_or_default())
}

fn notify(notify: Notify) -> String {
    let Notify { success, failure, delay } = notify;
    let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
    let words: Vec<&str> =
        words.into_iter().filter_map(|(is_wanted, word)| is_wanted.then_some(word)).collect();
    match words.is_empty() {
        true => "NOTIFY=NEVER".to_owned(),
        false => format!("NOTIFY={}", words.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_client_would_say_it() {
        let address: Address = "a@x.test".parse().expect("an address");
        let mut recipient = Recipient::from(address.clone());
        assert_eq!(of_recipient(&recipient), ["<a@x.test>"]);
        recipient.notify = Some(Notify::DEFAULT);
        recipient.orcpt = Some("rfc822;b@y.test".to_owned());
        assert_eq!(
            of_recipient(&recipient),
            ["<a@x.test>", "NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;b@y.test"]
        );
        recipient.notify = Some(Notify::NEVER);
        assert_eq!(of_recipient(&recipient)[1], "NOTIFY=NEVER");
        let mut envelope = Envelope {
            sender: None,
            recipients: vec![recipient],
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
        };
        assert_eq!(of_mail(&envelope), ["<>"]);
        envelope.sender = Some(address);
        envelope.body = BodyType::EightBitMime;
        envelope.smtputf8 = true;
        envelope.ret = Some(Ret::Hdrs);
        envelope.envid = Some("x+20y".to_owned());
        assert_eq!(
            of_mail(&envelope),
            ["<a@x.test>", "BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "ENVID=x+20y"]
        );
    }
}
