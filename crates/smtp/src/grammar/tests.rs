//! Tables of lines and what they say, and properties of all lines.

use mail::{AddressError, BodyType, Notify, Ret};
use proptest::prelude::*;

use super::*;

fn mail_of(line: &str) -> Result<MailCommand, CommandError> {
    match parse(line.as_bytes())? {
        Command::Mail(mail) => Ok(mail),
        other => panic!("{line}: {other:?}"),
    }
}

fn rcpt_of(line: &str) -> Result<mail::Recipient, CommandError> {
    match parse(line.as_bytes())? {
        Command::Rcpt(recipient) => Ok(recipient),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn commands_without_parameters() {
    let syntax = CommandError::Syntax;
    for (line, expect) in [
        ("EHLO mx.example.test", Ok(Command::Helo(Helo::Ehlo, "mx.example.test"))),
        ("ehlo [127.0.0.1] ", Ok(Command::Helo(Helo::Ehlo, "[127.0.0.1]"))),
        ("HELO x_y", Ok(Command::Helo(Helo::Helo, "x_y"))),
        ("HELO", Err(syntax("HELO hostname"))),
        ("EHLO  ", Err(syntax("EHLO hostname"))),
        ("EHLO a b", Err(CommandError::HeloName)),
        ("EHLO a\tb", Err(CommandError::HeloName)),
        ("EHLO a\x1b[31m", Err(CommandError::HeloName)),
        ("EHLO müller", Err(CommandError::HeloName)),
        ("DATA", Ok(Command::Data)),
        ("data ", Ok(Command::Data)),
        ("DATA now", Err(syntax("DATA"))),
        ("RSET", Ok(Command::Rset)),
        ("RSET x", Err(syntax("RSET"))),
        ("QUIT", Ok(Command::Quit)),
        ("NOOP anything at all", Ok(Command::Noop)),
        ("HELP MAIL", Ok(Command::Help)),
        ("VRFY root", Ok(Command::Vrfy)),
        ("VRFY", Err(syntax("VRFY address"))),
        ("EXPN list", Ok(Command::Expn)),
        ("STARTTLS", Err(CommandError::NotImplemented)),
        ("BDAT 10 LAST", Err(CommandError::NotImplemented)),
        ("AUTH PLAIN", Err(CommandError::NotImplemented)),
        ("GET / HTTP/1.1", Err(CommandError::Http)),
        ("", Err(CommandError::Unknown)),
        (" NOOP", Err(CommandError::Unknown)),
        ("NOOPX", Err(CommandError::Unknown)),
        ("NOOP\0", Err(CommandError::Bytes)),
        ("MAILFROM:<a@b.test>", Err(CommandError::Unknown)),
        ("XCLIENT ADDR=10.0.0.1", Err(CommandError::Unknown)),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2", Err(CommandError::Unknown)),
    ] {
        assert_eq!(parse(line.as_bytes()), expect, "{line:?}");
    }
    assert_eq!(parse(b"NOOP \xff"), Err(CommandError::Bytes));
    assert_eq!(parse(b"MAIL FROM:<\xff@x.test>"), Err(CommandError::AddressNotUtf8));
    assert_eq!(parse(b"RCPT TO:<\xff@x.test>"), Err(CommandError::AddressNotUtf8));
    let long = format!("EHLO {}", "a".repeat(HELO_BYTES_MAX + 1));
    assert_eq!(parse(long.as_bytes()), Err(CommandError::HeloName));
}

#[test]
fn senders() {
    let address = |error: AddressError| Err(CommandError::Sender(PathError::Address(error)));
    for (line, expect) in [
        ("MAIL FROM:<a@b.test>", Ok(Some("a@b.test"))),
        ("mail from:<a@b.test>", Ok(Some("a@b.test"))),
        ("MAIL FROM: <a@b.test>", Ok(Some("a@b.test"))),
        ("MAIL  FROM:<a@b.test>", Ok(Some("a@b.test"))),
        ("MAIL FROM:a@b.test", Ok(Some("a@b.test"))),
        ("MAIL FROM:<>", Ok(None)),
        ("MAIL FROM:<> SIZE=1", Ok(None)),
        (r#"MAIL FROM:<"a>b c"@b.test>"#, Ok(Some(r#""a>b c"@b.test"#))),
        (r#"MAIL FROM:<"a\">"@b.test>"#, Ok(Some(r#""a\">"@b.test"#))),
        ("MAIL FROM:<@x.test,@y.test:a@b.test>", Ok(Some("a@b.test"))),
        ("MAIL FROM:<jürgen@b.test> SMTPUTF8", Ok(Some("jürgen@b.test"))),
        ("MAIL FROM:<@x.test a@b.test>", Err(CommandError::Sender(PathError::Route))),
        ("MAIL FROM:<@x.test,y.test:a@b.test>", Err(CommandError::Sender(PathError::Route))),
        ("MAIL FROM:<a@b.test", Err(CommandError::Sender(PathError::Brackets))),
        ("MAIL FROM:<a@b.test>x", Err(CommandError::Sender(PathError::Brackets))),
        ("MAIL FROM:<<a@b.test>>", Err(CommandError::Sender(PathError::Brackets))),
        ("MAIL FROM:<a b@b.test>", address(AddressError::LocalPart)),
        ("MAIL FROM:", address(AddressError::LocalPart)),
        ("MAIL FROM:<postmaster>", address(AddressError::NoDomain)),
        ("MAIL FROM:<root>", address(AddressError::NoDomain)),
        ("MAIL FROM:<a@b_-.test>", address(AddressError::Domain)),
        ("MAIL", Err(CommandError::Syntax("MAIL FROM:<address> [parameters]"))),
        ("MAIL TO:<a@b.test>", Err(CommandError::Syntax("MAIL FROM:<address> [parameters]"))),
    ] {
        let found = mail_of(line).map(|mail| mail.sender.map(String::from));
        assert_eq!(found, expect.map(|sender| sender.map(str::to_owned)), "{line:?}");
    }
}

#[test]
fn recipients() {
    for (line, expect) in [
        ("RCPT TO:<a@b.test>", Ok("a@b.test")),
        ("rcpt to: <a@b.test>", Ok("a@b.test")),
        ("RCPT TO:<postmaster>", Ok("postmaster")),
        ("RCPT TO:<PostMaster>", Ok("PostMaster")),
        ("RCPT TO:<a@[127.0.0.1]>", Ok("a@[127.0.0.1]")),
        ("RCPT TO:<a@[IPv6:::1]>", Ok("a@[IPv6:::1]")),
        ("RCPT TO:<@relay.test:a@b.test>", Ok("a@b.test")),
        ("RCPT TO:<a%c.test@b.test>", Ok("a%c.test@b.test")),
        ("RCPT TO:<c.test!a@b.test>", Ok("c.test!a@b.test")),
        (r#"RCPT TO:<"a@c.test"@b.test>"#, Ok(r#""a@c.test"@b.test"#)),
        ("RCPT TO:<>", Err(CommandError::Recipient(PathError::Brackets))),
        ("RCPT TO:", Err(CommandError::Recipient(AddressError::LocalPart.into()))),
        ("RCPT TO:<a@b@c.test>", Err(CommandError::Recipient(AddressError::Domain.into()))),
        ("RCPT TO:<user>", Err(CommandError::Recipient(AddressError::NoDomain.into()))),
        ("RCPT FROM:<a@b.test>", Err(CommandError::Syntax("RCPT TO:<address> [parameters]"))),
    ] {
        let found = rcpt_of(line).map(|recipient| String::from(recipient.address));
        assert_eq!(found, expect.map(str::to_owned), "{line:?}");
    }
}

#[test]
fn mail_parameters() {
    let parse = |text| mail_of(&format!("MAIL FROM:<a@b.test> {text}")).map(|mail| mail.parameters);
    let expect = MailParameters {
        size: Some(4096),
        body: Some(BodyType::EightBitMime),
        smtputf8: true,
        ret: Some(Ret::Hdrs),
        envid: Some("QQ+2B314159".to_owned()),
    };
    assert_eq!(
        parse("SIZE=4096 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B314159"),
        Ok(expect.clone())
    );
    assert_eq!(parse("size=4096  body=8bitmime smtputf8 ret=hdrs envid=QQ+2B314159 "), Ok(expect));
    assert_eq!(parse("SIZE=99999999999999999999").map(|p| p.size), Ok(Some(u64::MAX)));
    for (text, error) in [
        ("SIZE", ParameterError::Malformed("SIZE")),
        ("SIZE=-1", ParameterError::Malformed("SIZE")),
        ("SIZE=1 SIZE=1", ParameterError::Malformed("SIZE")),
        ("SIZE=100000000000000000000", ParameterError::Malformed("SIZE")),
        ("BODY=BINARYMIME", ParameterError::Malformed("BODY")),
        ("SMTPUTF8=yes", ParameterError::Malformed("SMTPUTF8")),
        ("SMTPUTF8 SMTPUTF8", ParameterError::Malformed("SMTPUTF8")),
        ("RET=BODY", ParameterError::Malformed("RET")),
        ("ENVID=a+0Ab", ParameterError::Malformed("ENVID")),
        ("ENVID=a+zz", ParameterError::Malformed("ENVID")),
        ("ENVID=", ParameterError::Syntax),
        ("=x", ParameterError::Syntax),
        ("X=a=b", ParameterError::Syntax),
        ("AUTH=<>", ParameterError::Unknown),
        ("NOTIFY=NEVER", ParameterError::Unknown),
        ("HOLDFOR=1", ParameterError::Unknown),
    ] {
        assert_eq!(parse(text), Err(error.into()), "{text}");
    }
    let long = format!("ENVID={}", "a".repeat(ENVID_BYTES_MAX + 1));
    assert_eq!(parse(&long), Err(ParameterError::Malformed("ENVID").into()));
}

#[test]
fn rcpt_parameters() {
    let parse = |text| {
        rcpt_of(&format!("RCPT TO:<a@b.test> {text}")).map(|found| (found.notify, found.orcpt))
    };
    let notify = |success, failure, delay| Some(Notify { success, failure, delay });
    for (text, expect) in [
        ("", (None, None)),
        ("NOTIFY=NEVER", (Some(Notify::NEVER), None)),
        ("NOTIFY=SUCCESS,DELAY", (notify(true, false, true), None)),
        ("notify=failure", (notify(false, true, false), None)),
        ("ORCPT=rfc822;a+2Bb@c.test", (None, Some("rfc822;a+2Bb@c.test".to_owned()))),
        ("ORCPT=utf-8;jürgen@c.test", (None, Some("utf-8;jürgen@c.test".to_owned()))),
    ] {
        assert_eq!(parse(text), Ok(expect), "{text}");
    }
    for (text, error) in [
        ("NOTIFY=NEVER,SUCCESS", ParameterError::Malformed("NOTIFY")),
        ("NOTIFY=", ParameterError::Syntax),
        ("NOTIFY=SUCCESS,", ParameterError::Malformed("NOTIFY")),
        ("ORCPT=a@b.test", ParameterError::Malformed("ORCPT")),
        ("ORCPT=rfc822;", ParameterError::Malformed("ORCPT")),
        ("ORCPT=;a@b.test", ParameterError::Malformed("ORCPT")),
        ("ORCPT=rfc822;a+0D+0A@b.test", ParameterError::Malformed("ORCPT")),
        ("SIZE=1", ParameterError::Unknown),
    ] {
        assert_eq!(parse(text), Err(error.into()), "{text}");
    }
}

#[test]
fn replies_cannot_be_broken_out_of() {
    let written = |code, status: &str, text: &str| {
        let mut out = Vec::new();
        write_reply(&mut out, code, status.parse().ok(), text);
        String::from_utf8(out).expect("replies are ASCII")
    };
    assert_eq!(written(250, "2.0.0", "Ok"), "250 2.0.0 Ok\r\n");
    assert_eq!(written(250, "", "a\nb"), "250-a\r\n250 b\r\n");
    assert_eq!(written(550, "5.1.1", "no\nyes"), "550-5.1.1 no\r\n550 5.1.1 yes\r\n");
    assert_eq!(written(451, "5.1.1", ""), "451 4.1.1 \r\n");
    assert_eq!(written(550, "5.1.1", "x\r250 ü\0"), "550 5.1.1 x?250 ???\r\n");
    assert_eq!(written(7, "", "what"), "451 what\r\n");
    assert_eq!(written(250, "2.0.10", "\n\n."), "250-2.0.10 \r\n250-2.0.10 \r\n250 2.0.10 .\r\n");
    assert_eq!(written(599, "4.999.100", "no"), "599 5.999.100 no\r\n");
    for line in written(550, "5.100.100", &"x".repeat(2000)).split_inclusive("\r\n") {
        assert!(line.len() <= REPLY_LINE_BYTES_MAX && line.starts_with("550"));
    }
}

proptest! {
    #[test]
    fn no_line_makes_the_grammar_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&line);
    }

    #[test]
    fn no_argument_makes_the_grammar_panic(
        verb in prop::sample::select(vec!["MAIL FROM:", "RCPT TO:", "EHLO ", "VRFY "]),
        argument in "[<>@:,.\"\\\\ a-z=;+0-9\\PC]{0,60}",
    ) {
        let _ = parse(format!("{verb}{argument}").as_bytes());
    }

    #[test]
    fn addresses_come_back(local in "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}", domain in "[a-z0-9]{1,10}(\\.[a-z0-9]{1,10}){0,3}") {
        let address = format!("{local}@{domain}");
        let found = rcpt_of(&format!("RCPT TO:<{address}>")).expect("a well-formed address");
        prop_assert_eq!(found.address.as_str(), address);
    }
}
