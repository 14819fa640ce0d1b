//! Packets between a process and its child: a socketpair that keeps the borders of what was written, and carries
//! descriptors along.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The most bytes of one packet.
pub const PACKET_BYTES_MAX: usize = 64 << 10;
/// The most descriptors in one packet: the kernel's own limit.
pub const PACKET_DESCRIPTORS_MAX: usize = 253;

/// What [`receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A packet and the descriptors that came with it, close-on-exec.
    Packet(Vec<u8>, Vec<OwnedFd>),
    /// Nothing at this moment.
    Nothing,
    /// The other end has closed.
    End,
}

/// Makes a pair of connected packet sockets, close-on-exec and non-blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends one packet whole, without waiting: `WouldBlock` when the other end does not read.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty()
        || bytes.len() > PACKET_BYTES_MAX
        || descriptors.len() > PACKET_DESCRIPTORS_MAX
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a packet of this size cannot be sent",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_DESCRIPTORS_MAX))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(fits, "the ancillary space holds the most descriptors of a packet");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the next packet, without waiting.
pub fn receive(socket: impl AsFd) -> io::Result<Received> {
    let mut bytes = vec![0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_DESCRIPTORS_MAX))];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket.as_fd(), &mut slices, &mut control, flags) {
            Ok(message) => {
                let descriptors = control
                    .drain()
                    .filter_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                        _ => None,
                    })
                    .flatten()
                    .collect();
                if message.bytes == 0 {
                    return Ok(Received::End);
                }
                if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a packet was too long",
                    ));
                }
                bytes.truncate(message.bytes);
                return Ok(Received::Packet(bytes, descriptors));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET) => return Ok(Received::End),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
