//! A client's connection of HTTP/1.1 that is one with a host from now on.

use http::response::Parts;
use tokio::io::AsyncWriteExt;

use super::bridge::write_lines;
use super::buffer::Buffer;
use super::connection::{Client, Next};
use super::encode;
use super::stall::{BODY_TIMEOUT, TimeoutWriter};
use crate::exchange::Flag;
use crate::tcp::End;
use crate::tunnel::Tunnel;

/// Tells the client, and passes bytes until both sides have ended.
pub(super) async fn pass(client: &mut Client, told: &Parts, mut tunnel: Box<Tunnel>) -> Next {
    let mut head = Vec::with_capacity(1024);
    encode::status_line(&mut head, told.status.as_u16());
    write_lines(&mut head, &told.headers);
    if let Some(protocol) = &tunnel.host.protocol {
        encode::push(&mut head, "connection", &[b"upgrade"]);
        encode::push(&mut head, "upgrade", &[protocol.as_bytes()]);
    }
    head.extend_from_slice(b"\r\n");
    let mut writer = TimeoutWriter::new(&mut client.stream, BODY_TIMEOUT);
    let telling = async {
        writer.write_all(&head).await?;
        writer.flush().await
    };
    if telling.await.is_err() {
        tunnel.exchange.end(Flag::ClientGone);
        return Next::Close;
    }
    let nothing = Buffer::new(&client.connection.worker.buffers);
    let first = std::mem::replace(&mut client.input, nothing);
    if tunnel.pass(client.stream.split(), first).await != End::Whole {
        // Nobody must take what broke off for an end. There may be no connection any more.
        let _ = client.stream.set_zero_linger();
    }
    Next::Close
}
