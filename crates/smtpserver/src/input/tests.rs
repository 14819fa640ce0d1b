//! Buffers over a real connection.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(test);
}

/// A client's end of a connection and ours.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).await.expect("a connection");
    (client, listener.accept().await.expect("a connection").0)
}

#[test]
fn a_buffer_is_held_only_while_there_are_bytes() {
    run(async {
        let (mut client, mut stream) = pair().await;
        let pool = Rc::new(Pool::default());
        let mut input = Input::new(Rc::clone(&pool));

        client.write_all(b"EHLO x\r\nMAI").await.expect("bytes are taken");
        assert_eq!(input.read(&mut stream).await.expect("bytes come"), 11);
        input.consume(8);
        assert_eq!(input.bytes(), b"MAI");
        input.release();
        assert_eq!((input.bytes(), pool.spare.borrow().len()), (&b"MAI"[..], 1));
        client.write_all(b"L").await.expect("bytes are taken");
        assert_eq!(input.read(&mut stream).await.expect("bytes come"), 1);
        assert_eq!((input.bytes(), pool.spare.borrow().len()), (&b"MAIL"[..], 0));
        input.consume(1);
        input.release();
        input.consume(3);
        drop(client);
        assert_eq!(input.read(&mut stream).await.expect("the end"), 0);
        drop(input);
        assert_eq!(pool.spare.borrow().len(), 1);
    });
}

#[test]
fn a_short_read_leaves_nothing_to_try() {
    run(async {
        let (mut client, mut stream) = pair().await;
        let mut input = Input::new(Rc::default());
        client.write_all(b"QUIT\r\n").await.expect("bytes are taken");
        assert_eq!(input.read(&mut stream).await.expect("bytes come"), 6);
        let mut again = std::pin::pin!(stream.readable());
        let is_known_empty =
            poll_fn(|context| Poll::Ready(again.as_mut().poll(context).is_pending())).await;
        assert!(is_known_empty, "the wait begins without a read that fails");
    });
}

#[test]
fn a_fast_client_leaves_others_their_turn() {
    run(async {
        let (mut client, mut stream) = pair().await;
        let mut input = Input::new(Rc::default());
        // With one byte of room left, each byte is a read of its own.
        let writing = tokio::task::spawn_local(async move {
            client.write_all(&[b'x'; BUFFER_BYTES - 1]).await.expect("bytes are taken");
            client
        });
        while input.bytes().len() < BUFFER_BYTES - 1 {
            input.read(&mut stream).await.expect("bytes come");
        }
        let mut client = writing.await.expect("no panic");
        client.write_all(&[b'y'; 1001]).await.expect("bytes are taken");
        // From here on there is always something to read.
        assert_eq!(input.read(&mut stream).await.expect("bytes come"), 1);
        input.consume(1);
        let turns = Rc::new(std::cell::Cell::new(0));
        let other = Rc::clone(&turns);
        let turn = tokio::task::spawn_local(async move { other.set(other.get() + 1) });
        for _ in 0..1000 {
            assert_eq!(input.read(&mut stream).await.expect("bytes come"), 1);
            input.consume(1);
        }
        assert_eq!(turns.get(), 1, "another task had its turn before the last byte");
        turn.await.expect("no panic");
    });
}
