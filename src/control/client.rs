//! Asking a running server.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;

use super::server::with_short_path;
use super::{Event, MAX_LINE, Request, SOCKET, Transfer};

/// Why a server did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No server listens in this folder.
    #[error("no server listens in this folder")]
    Nobody,
    /// It listens, and the asking or answering failed.
    #[error("the running server does not answer: {0}")]
    Broken(#[from] io::Error),
    /// It ended before it was done.
    #[error("the running server stopped before it was done")]
    Stopped,
}

/// Whether a server listens in a data folder. An error if it cannot be asked. Blocks.
pub fn listens(data: &Path) -> io::Result<bool> {
    match with_short_path(data, SOCKET, |path| UnixStream::connect(path)) {
        Ok(_) => Ok(true),
        Err(error) if is_nobody(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

/// Asks the server of a data folder, and passes on what becomes of it; the last event is final. Blocks for as long as it takes, or until
/// `each` gives `false`: nobody wants to know more.
pub fn ask(
    data: &Path,
    request: &Request,
    each: &mut dyn FnMut(Event) -> bool,
) -> Result<(), AskError> {
    converse(data, request, None, each).map(drop)
}

/// What a server holds for a client stays held until this is dropped.
#[derive(Debug)]
pub struct Connection {
    _stream: BufReader<UnixStream>,
}

/// The same, for what goes in or out: the server gets `file`, if there is one, to read from.
pub fn transfer(
    data: &Path,
    request: &Transfer,
    file: Option<&File>,
    each: &mut dyn FnMut(Event) -> bool,
) -> Result<Connection, AskError> {
    converse(data, request, file, each)
}

fn converse(
    data: &Path,
    request: &impl Serialize,
    file: Option<&File>,
    each: &mut dyn FnMut(Event) -> bool,
) -> Result<Connection, AskError> {
    let connected = with_short_path(data, SOCKET, |path| UnixStream::connect(path));
    let mut stream = connected.map_err(|error| match is_nobody(&error) {
        true => AskError::Nobody,
        false => error.into(),
    })?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
    line.push(b'\n');
    let sent = match file {
        Some(file) => send_with(&stream, &line, file)?,
        None => 0,
    };
    stream.write_all(&line[sent..])?;
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(AskError::Stopped);
        }
        let event: Event = serde_json::from_slice(&line).map_err(io::Error::from)?;
        let last = event.is_final();
        if !each(event) || last {
            return Ok(Connection { _stream: stream });
        }
    }
}

/// Sends the beginning of `bytes`, and a file beside it; gives how many bytes were sent.
fn send_with(stream: &UnixStream, bytes: &[u8], file: &File) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    if !beside.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("a file does not fit beside a request"));
    }
    let parts = [IoSlice::new(bytes)];
    Ok(sendmsg(stream, &parts, &mut beside, SendFlags::empty())?)
}
