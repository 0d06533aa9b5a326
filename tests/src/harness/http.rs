//! HTTP by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Status and body of a GET.
///
/// # Panics
/// If there is no answer.
#[must_use]
pub fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    http_get_as(address, path, &address.to_string(), "")
}

/// The same under another Host, and with more headers (each with its `\r\n`).
///
/// # Panics
/// If there is no answer.
#[must_use]
pub fn http_get_as(address: SocketAddr, path: &str, host: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("HTTP listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (code, body.to_owned())
}
