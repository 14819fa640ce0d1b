use super::*;

#[test]
fn packets_keep_their_borders_and_carry_descriptors() {
    let (one, two) = pair().unwrap();
    let fd = crate::sealed_memfd("carried", b"inside").unwrap();
    send(&one, b"first", &[]).unwrap();
    send(&one, b"second", &[fd.as_fd()]).unwrap();
    drop(one);
    let Received::Packet(bytes, descriptors) = receive(&two).unwrap() else { panic!() };
    assert_eq!((bytes.as_slice(), descriptors.len()), (&b"first"[..], 0));
    let Received::Packet(bytes, descriptors) = receive(&two).unwrap() else { panic!() };
    assert_eq!(bytes, b"second");
    assert_eq!(crate::read_memfd(&descriptors[0]).unwrap(), b"inside");
    assert!(matches!(receive(&two).unwrap(), Received::End));
}

#[test]
fn nothing_is_waited_for() {
    let (one, two) = pair().unwrap();
    assert!(matches!(receive(&two).unwrap(), Received::Nothing));
    let full = (0..100_000).find_map(|_| send(&one, &[0; 1000], &[]).err()).unwrap();
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn what_is_over_the_limits_is_refused() {
    let (one, two) = pair().unwrap();
    assert!(send(&one, &vec![0; PACKET_BYTES_MAX + 1], &[]).is_err());
    assert!(send(&one, b"", &[]).is_err());
    let fd = crate::sealed_memfd("carried", b"inside").unwrap();
    let most = vec![fd.as_fd(); PACKET_DESCRIPTORS_MAX];
    send(&one, b"most", &most).unwrap();
    let Received::Packet(_, descriptors) = receive(&two).unwrap() else { panic!() };
    assert_eq!(descriptors.len(), PACKET_DESCRIPTORS_MAX);
    assert!(send(&one, b"more", &[most, vec![fd.as_fd()]].concat()).is_err());
}
