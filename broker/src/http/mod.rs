//! The HTTP side: liveness, readiness, metrics. The REST API (`/api/v1`) and the console (`/`) join the same router.

mod connections;
mod figures;
mod hosts;

use std::future::Future;
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, middleware};
use serde_json::json;
use tokio::net::TcpListener;

use crate::broker::Broker;
use crate::health::Health;
use crate::metrics::Metrics;
use connections::Bounds;
use figures::Figures;
use hosts::Hosts;

/// What HTTP knows. It listens before the broker is there, so that `/readyz` can say that it starts.
#[derive(Clone)]
pub(crate) struct HttpState {
    health: Health,
    metrics: Arc<Metrics>,
    broker: Arc<OnceLock<Arc<Broker>>>,
    figures: Arc<Figures>,
}

impl HttpState {
    pub(crate) fn new(health: Health, metrics: Arc<Metrics>) -> HttpState {
        HttpState { health, metrics, broker: Arc::default(), figures: Arc::default() }
    }

    /// The broker has started.
    pub(crate) fn set_broker(&self, broker: Arc<Broker>) {
        assert!(self.broker.set(broker).is_ok(), "a broker starts once");
    }
}

/// Serves until `stop` is done.
pub(crate) async fn serve(
    listener: TcpListener,
    state: HttpState,
    hosts: Vec<String>,
    stop: impl Future<Output = ()>,
) {
    connections::serve(listener, router(state, hosts), Bounds::default(), stop).await;
}

fn router(state: HttpState, hosts: Vec<String>) -> Router {
    let hosts = Arc::new(Hosts::new(hosts));
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
        .layer(middleware::from_fn_with_state(hosts, hosts::check))
}

/// Partitions that `/readyz` names; the log has them all.
const UNWRITABLE_SHOWN_MAX: usize = 100;

async fn livez() -> Json<serde_json::Value> {
    Json(json!({ "live": true }))
}

async fn readyz(State(state): State<HttpState>) -> Response {
    let health = state.health.now();
    let code = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let stopped: Vec<_> =
        health.stopped.iter().map(|(shard, why)| json!({ "shard": shard, "error": why })).collect();
    // Not a reason against being ready: whoever consumes, acknowledges and deletes is served.
    let refused = health.short.iter().map(|(shard, shortage)| {
        json!({
            "shard": shard,
            "reason": "disk full",
            "available_bytes": shortage.available_bytes,
            "reserve_bytes": shortage.reserve_bytes,
            "waiting_for_room": shortage.waits,
        })
    });
    let unwritable =
        health.unwritable.iter().flat_map(|(shard, logs)| logs.iter().map(move |log| (shard, log)));
    let unwritable = unwritable.take(UNWRITABLE_SHOWN_MAX).map(|(shard, log)| {
        json!({
            "shard": shard,
            "reason": "the disk refuses to write",
            "topic": log.topic,
            "partition": log.partition.partition.0,
            "from_offset": log.from.0,
            "error": log.what,
        })
    });
    let body = json!({
        "ready": health.is_ready(),
        "reasons": health.reasons(),
        "stopped_shards": stopped,
        "degraded": health.is_degraded(),
        "damage": health.damage(),
        "producing_refused": refused.chain(unwritable).collect::<Vec<_>>(),
    });
    (code, Json(body)).into_response()
}

async fn metrics(State(state): State<HttpState>) -> Response {
    let mut text = state.metrics.render();
    if let Some(broker) = state.broker.get() {
        state.figures.append(broker, &mut text).await;
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
