//! Debian's pgbouncer in front of a server, with transactions pooled.

use std::os::unix::net::UnixStream;
use std::path::Path;

use super::keeper::Home;
use super::{PORT, Server, USER};

/// A pooler. Dropping it ends it.
pub struct Bouncer(Home);

impl Bouncer {
    /// Starts one for a server: each database's connections share so many of the server's.
    pub fn start(server: &Server, pool_size: u32) -> Self {
        let mut home = Home::make();
        let (dir, to) = (home.dir().display(), server.dir().display());
        let file = home.dir().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={to} port={PORT} user={USER}\n[pgbouncer]\npool_mode = transaction\nauth_type = any\n\
             listen_addr =\nlisten_port = {PORT}\nunix_socket_dir = {dir}\ndefault_pool_size = {pool_size}\nmax_client_conn = 200\n"
        );
        std::fs::write(&file, text).expect("it can be written");
        let words = [file.to_str().expect("a plain name").to_owned()];
        let socket = home.dir().join(format!(".s.PGSQL.{PORT}"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        home.start(Path::new("/usr/sbin/pgbouncer"), &words, || {
            UnixStream::connect(&socket).is_ok()
        });
        Self(home)
    }

    /// The URL of one of the server's databases, through this.
    pub fn url(&self, database: &str) -> String {
        let dir = self.0.dir().display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{dir}:{PORT}/{database}")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.0.log()
    }
}
