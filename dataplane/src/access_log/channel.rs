//! What lines say of a client's connection, and of how a call of gRPC ended.

use super::format::{Show, address, ip, number, quoted, text};
use crate::channel::Channel;
use crate::grpc::Code;
use crate::tls::Peer;

/// Of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfChannel {
    LocalAddress,
    LocalAddressWithoutPort,
    ServerName,
    TlsVersion,
    TlsCipher,
    /// Of the client's certificate.
    PeerSubject,
    PeerUris,
    PeerDnsNames,
}

/// How a status of gRPC is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeStyle {
    Camel,
    Snake,
    Number,
}

/// By their numbers.
const CODES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl OfChannel {
    pub(super) fn write(self, out: &mut Vec<u8>, show: Show, channel: &Channel) {
        let peer = channel.peer.as_deref();
        match self {
            Self::LocalAddress => quoted(out, show, |out| address(out, channel.to)),
            Self::LocalAddressWithoutPort => quoted(out, show, |out| ip(out, channel.to.ip())),
            Self::ServerName => text(out, show, channel.server_name.as_deref().map(str::as_bytes)),
            Self::TlsVersion => text(
                out,
                show,
                channel.cipher.map(|cipher| cipher.version().as_bytes()),
            ),
            Self::TlsCipher => text(out, show, channel.cipher.map(|cipher| cipher.name().as_bytes())),
            Self::PeerSubject => listed(out, show, peer.map(Peer::subject)),
            Self::PeerUris => listed(out, show, peer.into_iter().flat_map(Peer::uris)),
            Self::PeerDnsNames => listed(out, show, peer.into_iter().flat_map(Peer::dns_names)),
        }
    }
}

impl CodeStyle {
    pub(super) fn write(self, out: &mut Vec<u8>, show: Show, code: Option<Code>) {
        let Some(code) = code else {
            return text(out, show, None);
        };
        let names = CODES.get(usize::from(code.number()));
        match (self, names) {
            (Self::Camel, Some((camel, _))) => text(out, show, Some(camel.as_bytes())),
            (Self::Snake, Some((_, snake))) => text(out, show, Some(snake.as_bytes())),
            (Self::Number, _) => number(out, code.number().into()),
            (_, None) => quoted(out, show, |out| number(out, code.number().into())),
        }
    }
}

/// With commas; nothing is not there.
fn listed<'a>(out: &mut Vec<u8>, show: Show, values: impl IntoIterator<Item = &'a str>) {
    let values: Vec<&str> = values.into_iter().filter(|value| !value.is_empty()).collect();
    let all = values.join(",");
    text(out, show, Some(all.as_bytes()).filter(|all| !all.is_empty()));
}
