//! What each row's `crc` covers: CRC-32C over every field of it that a reader uses.

use mail::MessageId;

/// The fields of a row of `message`.
pub(crate) struct MessageFields<'a> {
    pub(crate) id: &'a str,
    pub(crate) accepted_at: i64,
    pub(crate) accepted: &'a [u8],
    pub(crate) size: i64,
    pub(crate) body: &'a [u8],
    pub(crate) body_id: Option<&'a str>,
}

impl MessageFields<'_> {
    /// The checksum of them all.
    pub(crate) fn crc(&self) -> i64 {
        let accepted_bytes = self.accepted.len() as u64;
        let mut crc = crc32c::crc32c(self.id.as_bytes());
        for part in [
            &self.accepted_at.to_be_bytes()[..],
            &self.size.to_be_bytes(),
            &accepted_bytes.to_be_bytes(),
            self.accepted,
            self.body_id.unwrap_or_default().as_bytes(),
            self.body,
        ] {
            crc = crc32c::crc32c_append(crc, part);
        }
        crc.into()
    }
}

/// The checksum of a row of `body`.
pub(crate) fn of_piece(id: MessageId, seq: i32, data: &[u8]) -> i64 {
    let crc = crc32c::crc32c(id.as_bytes());
    let crc = crc32c::crc32c_append(crc, &seq.to_be_bytes());
    crc32c::crc32c_append(crc, data).into()
}
