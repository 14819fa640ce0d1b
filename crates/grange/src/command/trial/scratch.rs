//! The scratch directory of a trial, and the configuration in it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::process::Child;

use super::{HERE, PATIENCE};
use crate::command::Failure;

/// A directory that is removed when dropped, unless it is to be kept.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    pub(super) config: PathBuf,
    pub(super) listen: SocketAddr,
    pub(super) as_root: bool,
    keep: bool,
}

impl Scratch {
    /// Makes the directory and writes the configuration.
    pub(super) fn make(port: Option<u16>, sink: SocketAddr, keep: bool) -> Result<Self, Failure> {
        let listen = free_port(port)?;
        let name = format!("grange-try-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let as_root = nix::unistd::geteuid().is_root();
        let scratch = Self { config: path.join("grange.toml"), path, listen, as_root, keep };
        std::fs::write(&scratch.config, scratch.text(sink))
            .with_context(|| format!("cannot write {}", scratch.config.display()))?;
        Ok(scratch)
    }

    fn text(&self, sink: SocketAddr) -> String {
        let path = self.path.display();
        let user = if self.as_root { "user = \"nobody\"\n" } else { "" };
        format!(
            "hostname = \"mta.{HERE}\"\n\
             data_dir = \"{path}/data\"\n\
             run_dir = \"{path}/run\"\n\
             {user}\n\
             [log]\n\
             format = \"json\"\n\n\
             [smtpserver]\n\
             listen = [{{ address = \"{}\", service = \"mx\" }}]\n\
             relay_from = [\"127.0.0.0/8\"]\n\n\
             [router]\n\
             routes = [\n\
             \x20 {{ domain = \"{HERE}\", channel = \"local\" }},\n\
             \x20 {{ domain = \"*\", channel = \"smtp\", host = \"[127.0.0.1]:{}\" }},\n\
             ]\n\n\
             [channel.local]\n\
             agent = \"local\"\n\
             mailbox = \"{{data_dir}}/mail/{{domain}}/{{user}}/\"\n",
            self.listen,
            sink.port()
        )
    }

    /// Waits until the SMTP port greets; says how long that took.
    pub(super) async fn wait_until_ready(&self, child: &mut Child) -> Result<Duration, Failure> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait()? {
                return Err(anyhow::anyhow!("the farms ended at their start: {status}").into());
            }
            let greeting = tokio::time::timeout(Duration::from_secs(2), self.greeting()).await;
            if matches!(greeting, Ok(Ok(true))) {
                return Ok(begun.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(anyhow::anyhow!("the farms were not ready within {} s", PATIENCE.as_secs()).into())
    }

    async fn greeting(&self) -> std::io::Result<bool> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.listen).await?;
        let mut first = [0; 4];
        stream.read_exact(&mut first).await?;
        stream.write_all(b"QUIT\r\n").await?;
        Ok(&first == b"220 ")
    }

    /// Whether a message with this token lies in a user's Maildir.
    pub(super) fn maildir_has(&self, user: &str, token: &str) -> bool {
        let new = self.path.join("data/mail").join(HERE).join(user).join("new");
        let Ok(entries) = std::fs::read_dir(new) else { return false };
        entries
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path()).ok())
            .any(|text| contains(&text, token.as_bytes()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            println!("kept: {}", self.path.display());
        } else if let Err(error) = remove(&self.path) {
            println!("could not remove {}: {error}", self.path.display());
        }
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(path)
}

/// Whether `text` holds `part`.
pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len().max(1)).any(|window| window == part)
}

/// The port asked for, or one that is free now.
fn free_port(port: Option<u16>) -> Result<SocketAddr, Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0)));
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}"))?;
    Ok(listener.local_addr()?)
}
