//! The escapes of protocol 0's text.

/// The escapes of a Python string literal, in `STRING`.
pub(super) fn unescape_string(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let Some((&escape, tail)) = rest.split_first() else { break };
        rest = tail;
        match escape {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'v' => out.push(11),
            b'f' => out.push(12),
            b'x' if rest.len() >= 2 => {
                let (digits, tail) = rest.split_at(2);
                rest = tail;
                out.push(hex(digits).unwrap_or(u32::from(b'?')) as u8);
            }
            b'0'..=b'7' => {
                let more = rest.iter().take(2).take_while(|b| matches!(b, b'0'..=b'7')).count();
                let (digits, tail) = rest.split_at(more);
                rest = tail;
                let value = digits.iter().fold(u32::from(escape - b'0'), |v, d| v * 8 + u32::from(d - b'0'));
                out.push(value as u8);
            }
            other => out.push(other),
        }
    }
    out
}

/// The escapes `\uXXXX` and `\UXXXXXXXX` of `UNICODE`; other bytes are Latin-1.
pub(super) fn unescape_unicode(text: &[u8]) -> Vec<u8> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = match (first, tail.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => 0,
        };
        match tail.get(1..1 + digits).filter(|_| digits > 0).and_then(hex).and_then(char::from_u32) {
            Some(c) => {
                out.push(c);
                rest = &tail[1 + digits..];
            }
            None => {
                out.push(char::from(*first));
                rest = tail;
            }
        }
    }
    out.into_bytes()
}

fn hex(digits: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
