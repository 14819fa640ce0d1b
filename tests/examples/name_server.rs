//! A name server on loopback with the zone in a file, for benchmarks: `name_server FILE` prints its address and serves until it is ended.

use std::io::Write as _;

use tests::NameServer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: name_server FILE")?;
    let server = NameServer::start(&std::fs::read_to_string(file)?);
    let mut out = std::io::stdout();
    writeln!(out, "{}", server.address())?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
