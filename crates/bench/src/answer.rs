//! HTTP/1.1 answers on a connection that is kept alive.

use std::borrow::Cow;

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) head: &'a [u8],
    pub(crate) body: Cow<'a, [u8]>,
    /// How many bytes it took in all.
    pub(crate) length: usize,
}

/// Why bytes are no answer that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("what it answers is no HTTP/1.1")]
    NotHttp,
    #[error("its answer has no length, so that the connection can't be kept")]
    NoLength,
}

/// The first answer in these bytes, once it is there as a whole.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Answer<'_>>, AnswerError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let begin = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(AnswerError::NotHttp),
    };
    let status = answer.code.ok_or(AnswerError::NotHttp)?;
    let find = |name: &str| answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let head = &bytes[..begin];
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<usize>().ok();
    if status < 200 || status == 204 || status == 304 {
        return Ok(Some(Answer { status, head, body: Cow::Borrowed(&[]), length: begin }));
    }
    if let Some(header) = find("content-length") {
        let length = number(header.value).ok_or(AnswerError::NotHttp)?;
        let body = bytes.get(begin..begin + length);
        return Ok(body.map(|body| Answer {
            status,
            head,
            body: Cow::Borrowed(body),
            length: begin + length,
        }));
    }
    if find("transfer-encoding").is_none() {
        return Err(AnswerError::NoLength);
    }
    let mut body = Vec::new();
    let mut at = begin;
    loop {
        let (length, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(parsed)) => parsed,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(AnswerError::NotHttp),
        };
        let size = usize::try_from(size).map_err(|_| AnswerError::NotHttp)?;
        at += length;
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some(Answer { status, head, body: Cow::Owned(body), length: at }));
        }
    }
}

impl Answer<'_> {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        answer.parse(self.head).ok()?;
        let header = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(header.value).into_owned())
    }

    /// The status and what it says about it, for an error.
    pub(crate) fn summary(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let short: String = body.trim().chars().take(300).collect();
        format!("{} {short}", self.status).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{AnswerError, parse};

    #[test]
    fn answers_are_taken_whole() {
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: 7\r\n\r\nokHTTP/1.1 204 No Content\r\n\r\n";
        let first = parse(two).unwrap().unwrap();
        assert_eq!(
            (first.status, &*first.body, first.header("etag")),
            (200, &b"ok"[..], Some("7".to_owned()))
        );
        assert_eq!(parse(&two[first.length..]).unwrap().unwrap().status, 204);
        for end in 0..first.length {
            assert!(parse(&two[..end]).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn chunks_are_joined() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        let answer = parse(bytes).unwrap().unwrap();
        assert_eq!((&*answer.body, answer.length), (&b"abc"[..], bytes.len()));
        assert!(parse(&bytes[..bytes.len() - 1]).unwrap().is_none());
    }

    #[test]
    fn an_answer_without_an_end_is_refused() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n").unwrap_err(), AnswerError::NoLength);
        assert_eq!(parse(b"SSH-2.0\r\n\r\n").unwrap_err(), AnswerError::NotHttp);
    }
}
