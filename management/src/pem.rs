//! Keys as text, between lines that say what they are (RFC 7468).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Of a private key as PKCS #8.
pub(crate) const PRIVATE: &str = "PRIVATE KEY";
const LINE_BYTES: usize = 64;

pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(LINE_BYTES) {
        text.extend(line.iter().map(|&byte| char::from(byte)));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// Those of that label which can be read; other text may stand around them.
pub(crate) fn blocks(text: &str, label: &str) -> Vec<Vec<u8>> {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let blocks = text.split(&begin).skip(1);
    blocks
        .filter_map(|block| {
            let (encoded, _) = block.split_once(&end)?;
            let encoded: String = encoded.split_whitespace().collect();
            STANDARD.decode(encoded).ok()
        })
        .collect()
}
