//! The cases of h2spec that a proxy fails, each with its reason. h2spec goes by RFC 7540, of which RFC 9113 has taken some back.

use tombolo_tests::proxy::Software;

use super::Known;

const ENVOY: &[Software] = &[Software::Envoy];

pub(super) const KNOWN: &[Known] = &[
    Known {
        case: "http2/3.5/2",
        by: &Software::BOTH,
        reason: "what does not begin as HTTP/2 is HTTP/1.1 to this port, which answers 400 before it closes",
    },
    Known {
        case: "generic/3.8/1",
        by: ENVOY,
        reason: "a PING behind a GOAWAY is not answered",
    },
    Known {
        case: "http2/7/1",
        by: ENVOY,
        reason: "a PING behind a GOAWAY is not answered",
    },
    Known {
        case: "http2/5.1.1/2",
        by: ENVOY,
        reason: "a stream with a lower number than the last is one that was closed, and is ignored",
    },
    Known {
        case: "http2/5.1/8",
        by: ENVOY,
        reason: "frames of a stream that its client has reset are ignored",
    },
    Known {
        case: "http2/5.1/9",
        by: ENVOY,
        reason: "frames of a stream that its client has reset are ignored",
    },
    Known {
        case: "http2/5.1/11",
        by: ENVOY,
        reason: "frames of a stream that is closed are ignored",
    },
    Known {
        case: "http2/5.1/12",
        by: ENVOY,
        reason: "frames of a stream that is closed are ignored",
    },
    Known {
        case: "http2/5.3.1/2",
        by: ENVOY,
        reason: "PRIORITY is ignored, whatever it says: RFC 9113, section 5.3.2, has nobody follow it",
    },
    Known {
        case: "http2/6.3/1",
        by: ENVOY,
        reason: "PRIORITY is ignored, whatever it says and also of no stream",
    },
    Known {
        case: "http2/5.4.1/2",
        by: ENVOY,
        reason: "the connection is closed without a GOAWAY, which is only asked for by a SHOULD",
    },
    Known {
        case: "http2/6.9.1/2",
        by: ENVOY,
        reason: "the connection is closed without a GOAWAY that would say why",
    },
    Known {
        case: "http2/6.9.1/3",
        by: ENVOY,
        reason: "the connection is closed in place of the stream",
    },
];
