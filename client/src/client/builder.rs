//! What can be set about a client.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::link::Link;
use super::metadata::MetadataCache;
use super::{Client, Inner};
use crate::connection::Greeting;
use crate::error::{Error, Result};

const SERVERS_DEFAULT: &str = "127.0.0.1:7650";
const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// The protocol's limit.
const NAME_BYTES_MAX: usize = 255;

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    servers: String,
    name: Option<String>,
    request_timeout: Duration,
    connect_wait: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            servers: SERVERS_DEFAULT.to_owned(),
            name: None,
            request_timeout: REQUEST_TIMEOUT_DEFAULT,
            connect_wait: Duration::ZERO,
        }
    }
}

impl ClientBuilder {
    /// The brokers, `"host:port[,host:port…]"`; `127.0.0.1:7650` unless set.
    #[must_use]
    pub fn servers(mut self, servers: impl Into<String>) -> Self {
        self.servers = servers.into();
        self
    }

    /// A name for people, shown in group descriptions; the program's name and process id unless set.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long an operation may take, reconnecting included; 30 s unless set.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long [`connect`](Self::connect) keeps trying while no broker answers; one round unless set.
    #[must_use]
    pub fn connect_wait(mut self, wait: Duration) -> Self {
        self.connect_wait = wait;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an address that is none, [`Error::Disconnected`] if no broker answers.
    pub async fn connect(self) -> Result<Client> {
        let servers: Vec<String> =
            self.servers.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
        if servers.is_empty() {
            return Err(Error::invalid("no server given: expected HOST:PORT[,HOST:PORT…]"));
        }
        for server in &servers {
            let port = server.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(_))) {
                return Err(Error::invalid(format!("`{server}` is not an address: expected HOST:PORT")));
            }
        }
        let name = self.name.unwrap_or_else(default_name);
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!("the client's name is longer than {NAME_BYTES_MAX} bytes")));
        }
        let greeting = Greeting { client: name };
        let inner = Inner {
            work_link: Link::new(servers.clone(), greeting.clone()),
            link: Link::new(servers, greeting),
            metadata: MetadataCache::default(),
            request_timeout: self.request_timeout,
        };
        inner.link.connection(Instant::now() + self.connect_wait).await?;
        Ok(Client { inner: Arc::new(inner) })
    }
}

fn default_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = std::path::Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
    let mut program = program.unwrap_or_else(|| "dure-client".to_owned());
    program.truncate(program.floor_char_boundary(NAME_BYTES_MAX - 16));
    format!("{program}-{}", std::process::id())
}
