//! What a record must have to be yielded.

use std::sync::Arc;

use bytes::Bytes;
use dure_proto::{Record, wire};

/// All of these headers. The broker sends no others, but where a batch cannot be made smaller.
#[derive(Clone, Debug, Default)]
pub(super) struct Filters(Arc<Vec<wire::HeaderFilter>>);

impl Filters {
    pub(super) fn add(&mut self, name: String, value: Bytes) {
        Arc::make_mut(&mut self.0).push(wire::HeaderFilter { name, value: value.into() });
    }

    pub(super) fn to_wire(&self) -> Vec<wire::HeaderFilter> {
        self.0.to_vec()
    }

    pub(super) fn match_record(&self, record: &Record) -> bool {
        self.0.iter().all(|filter| {
            let is = |(name, value): &(Bytes, Option<Bytes>)| {
                name == filter.name.as_bytes() && value.as_deref() == Some(&*filter.value)
            };
            record.headers.iter().any(is)
        })
    }
}
