//! A log read forward, so that a long one costs nothing to wait for.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::until;

/// A place in a log.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    offset: u64,
    /// What was read and not passed yet.
    text: String,
}

impl Follow {
    pub(crate) fn from_end(path: PathBuf) -> Self {
        let offset = path.metadata().map_or(0, |metadata| metadata.len());
        Self { path, offset, text: String::new() }
    }

    /// Waits for a line that holds these words, passes it and gives it.
    pub fn line(&mut self, words: &str) -> String {
        until(&format!("the log says {words:?}"), || {
            self.read();
            let at = self.text.find(words)?;
            let begin = self.text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
            let length = self.text.get(at..)?.find('\n')?;
            let line = self.text.get(begin..at + length)?.to_owned();
            self.text.drain(..=at + length);
            Some(line)
        })
    }

    /// What was logged since, and passes it.
    pub fn rest(&mut self) -> String {
        self.read();
        std::mem::take(&mut self.text)
    }

    fn read(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        let mut bytes = Vec::new();
        let read =
            file.seek(SeekFrom::Start(self.offset)).and_then(|_| file.read_to_end(&mut bytes));
        read.expect("a log can be read");
        self.offset += bytes.len() as u64;
        self.text.push_str(&String::from_utf8_lossy(&bytes));
    }
}
