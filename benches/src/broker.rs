//! DureMQ as it ships: the binary `dure` beside the program that measures.

use std::path::PathBuf;
use std::process::Command;

use tokio::net::TcpStream;

use crate::Res;
use crate::server::Server;

/// Where it is.
///
/// # Errors
/// If it is not there.
pub fn binary() -> Res<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("dure");
    match path.exists() {
        true => Ok(path),
        false => {
            Err("there is no `dure` beside this program: cargo build --release -p dure-broker --bins".into())
        }
    }
}

/// A broker on an empty directory, with its default settings but for `flags`, once it answers.
///
/// # Errors
/// If it does not start.
pub async fn start(flags: &[&str]) -> Res<Server> {
    let binary = binary()?;
    let mut server = Server::start(|port, dir| {
        let mut command = Command::new(binary);
        command.args(["serve", "--http", "127.0.0.1:0", "--listen", &format!("127.0.0.1:{port}")]);
        command.args(flags).arg("--data").arg(dir.join("data"));
        Ok(command)
    })?;
    server.wait(|address| async move { Ok(TcpStream::connect(address).await?) }).await?;
    Ok(server)
}
