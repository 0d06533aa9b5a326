//! A connection that breaks at the worst moment.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use bytes::BytesMut;
use dure_proto::wire::envelope::Body;
use dure_proto::{FRAME_BYTES_MAX, FrameDecoder};

/// Stands between a client and a broker. Told to, it keeps the answer to a produce to itself and cuts the
/// connection: the broker has the messages, and the client cannot know.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    armed: Arc<AtomicU32>,
}

impl Proxy {
    /// Listens on a port of its own.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn start(broker: SocketAddr) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let armed = Arc::new(AtomicU32::new(0));
        let cuts = Arc::clone(&armed);
        // Ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(broker) = TcpStream::connect(broker) else { continue };
                let (from_client, to_broker) =
                    (client.try_clone().expect("a handle"), broker.try_clone().expect("a handle"));
                let cuts = Arc::clone(&cuts);
                thread::spawn(move || forward(from_client, to_broker));
                thread::spawn(move || answer(broker, client, &cuts));
            }
        });
        Proxy { address, armed }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next so many answers to a produce are lost.
    pub fn lose_answers(&self, count: u32) {
        self.armed.store(count, Ordering::SeqCst);
    }

    /// How many of them have not been lost yet.
    #[must_use]
    pub fn answers_to_lose(&self) -> u32 {
        self.armed.load(Ordering::SeqCst)
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

fn answer(mut broker: TcpStream, mut client: TcpStream, armed: &AtomicU32) {
    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut seen = BytesMut::new();
    let mut chunk = [0; 16 << 10];
    while let Ok(bytes @ 1..) = broker.read(&mut chunk) {
        seen.extend_from_slice(&chunk[..bytes]);
        let mut produced = false;
        while let Ok(Some(frame)) = decoder.decode(&mut seen) {
            produced |= matches!(frame.envelope.body, Some(Body::ProduceReply(_)));
        }
        let lose =
            produced && armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if lose || client.write_all(&chunk[..bytes]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = broker.shutdown(Shutdown::Both);
}
