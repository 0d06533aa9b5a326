//! The one place that says who may do what. Everyone may do everything until authentication is configured, which is
//! why a non-loopback address is refused without `--insecure`.

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Principal {
    /// Nobody has said who they are.
    Anonymous,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Operation {
    Describe,
    Administer,
    Produce,
    Consume,
}

/// What it is to be done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    /// The broker as a whole.
    Cluster,
    /// A topic by name; empty where a request concerns all of them.
    Topic(&'a str),
    /// A group by name.
    Group(&'a str),
}

/// The principal may not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not allowed: {operation:?} on {resource}")]
pub(crate) struct Denied {
    /// What was asked.
    pub(crate) operation: Operation,
    /// On what.
    pub(crate) resource: String,
}

/// Asked before every request, whichever the listener.
pub(crate) fn authorize(
    principal: &Principal,
    operation: Operation,
    resource: Resource<'_>,
) -> Result<(), Denied> {
    match (principal, operation, resource) {
        (Principal::Anonymous, _, _) => Ok(()),
    }
}
