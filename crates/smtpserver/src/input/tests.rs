//! Buffers over a real connection.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

#[test]
fn a_buffer_is_held_only_while_there_are_bytes() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        let pool = Rc::new(Pool::default());
        let mut input = Input::new(Rc::clone(&pool));

        client.write_all(b"EHLO x\r\nMAI").await.expect("bytes are taken");
        assert_eq!(input.read(&stream).await.expect("bytes come"), 11);
        input.consume(8);
        assert_eq!(input.bytes(), b"MAI");
        input.release();
        assert_eq!((input.bytes(), pool.spare.borrow().len()), (&b"MAI"[..], 1));
        client.write_all(b"L").await.expect("bytes are taken");
        assert_eq!(input.read(&stream).await.expect("bytes come"), 1);
        assert_eq!((input.bytes(), pool.spare.borrow().len()), (&b"MAIL"[..], 0));
        input.consume(1);
        input.release();
        input.consume(3);
        drop(client);
        assert_eq!(input.read(&stream).await.expect("the end"), 0);
        drop(input);
        assert_eq!(pool.spare.borrow().len(), 1);
    });
}
