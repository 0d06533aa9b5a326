//! Which names HTTP answers to. A page of another site can make a browser send requests here, under that site's name;
//! an address in numbers cannot be had that way.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

pub(super) struct Hosts {
    /// Lower case, beside `localhost` and addresses in numbers.
    names: Vec<String>,
}

impl Hosts {
    pub(super) fn new(names: Vec<String>) -> Hosts {
        Hosts { names }
    }

    /// `authority` is a host with or without a port.
    fn allow(&self, authority: &str) -> bool {
        let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
        };
        let host = host.to_ascii_lowercase();
        host == "localhost" || host.parse::<IpAddr>().is_ok() || self.names.contains(&host)
    }

    fn allow_request(&self, request: &Request) -> bool {
        let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let host =
            text(header::HOST).or_else(|| request.uri().authority().map(|authority| authority.as_str()));
        host.is_some_and(|host| self.allow(host))
            && text(header::ORIGIN).is_none_or(|origin| self.allow_origin(origin))
    }

    fn allow_origin(&self, origin: &str) -> bool {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| self.allow(authority))
    }
}

/// Refuses requests under a foreign name, or from a page of a foreign site.
pub(super) async fn check(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    if hosts.allow_request(&request) {
        return next.run(request).await;
    }
    let error = "the Host or Origin is not one that this broker answers to: name it in `http-hosts`";
    (StatusCode::FORBIDDEN, Json(json!({ "error": error }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        let hosts = Hosts::new(vec!["queue.example".to_owned()]);
        for ours in
            ["localhost", "LOCALHOST:7651", "127.0.0.1:7651", "[::1]:7651", "10.0.0.7", "queue.example:80"]
        {
            assert!(hosts.allow(ours), "{ours}");
        }
        for foreign in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7651", "", "queue.example.x"]
        {
            assert!(!hosts.allow(foreign), "{foreign}");
        }
        assert!(hosts.allow_origin("http://127.0.0.1:7651") && !hosts.allow_origin("null"));
        assert!(!hosts.allow_origin("https://evil.example"));
    }
}
