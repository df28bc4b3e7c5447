//! JSON from outside, read in one pass and strictly: RFC 8259, and no key twice, no lone surrogate, nothing deeper
//! than [`DEEPEST`].
//!
//! The reader is pulled by whoever knows what is to come; a value that is only passed on is checked and freed of the
//! whitespace between its tokens, its numbers, order and spelling as they came.

use std::borrow::Cow;
use std::fmt;

/// How many arrays and objects may be inside each other.
const DEEPEST: u32 = 64;

/// Objects with more keys than this find their double keys by sorting.
const FEW_KEYS: usize = 16;

/// A text that is not the JSON that was to come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadJson {
    /// Counted from 1.
    line: usize,
    /// Counted from 1, in characters.
    column: usize,
    /// What is wrong there.
    fault: Fault,
}

/// `{:#}` leaves the line out.
impl fmt::Display for BadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return write!(f, "{} (column {})", self.fault, self.column);
        }
        write!(f, "{} (line {}, column {})", self.fault, self.line, self.column)
    }
}

/// What can be wrong with JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("the JSON is not UTF-8")]
    NotUtf8,
    #[error("the JSON ends where {0} is to come")]
    Ended(&'static str),
    #[error("there is {found:?} where {expected} is to come")]
    Unexpected { found: char, expected: &'static str },
    #[error("there is more after the end of the JSON")]
    Trailing,
    #[error("a string has the control character {0:?}; write it as an escape")]
    Control(char),
    #[error("a string has an unknown escape")]
    Escape,
    #[error("a string has half a surrogate pair")]
    Surrogate,
    #[error("a number is not written as JSON writes numbers")]
    Number,
    #[error("the JSON is deeper than {DEEPEST}")]
    TooDeep,
    #[error("the key {0:?} is there twice")]
    DoubleKey(String),
}

/// Reads one JSON text.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    /// The next byte.
    at: usize,
    /// How many arrays and objects are open.
    depth: u32,
    /// The keys of the objects that are open, and where they ended.
    keys: Vec<(Cow<'a, str>, usize)>,
    /// What was kept of the value that is being made compact, up to `run`.
    compact: String,
    run: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of a text.
    pub fn new(bytes: &'a [u8]) -> Result<Reader<'a>, BadJson> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let good = std::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default());
            let good = good.unwrap_or_default();
            fault_at(good, good.len(), Fault::NotUtf8)
        })?;
        Ok(Reader { text, at: 0, depth: 0, keys: Vec::new(), compact: String::new(), run: 0 })
    }

    /// The first byte of the next value, which is not taken.
    pub fn peek(&mut self) -> Result<u8, BadJson> {
        self.skip_space();
        self.byte().ok_or_else(|| self.fault(Fault::Ended("a value")))
    }

    /// Nothing is left but whitespace.
    pub fn finish(mut self) -> Result<(), BadJson> {
        self.skip_space();
        if self.byte().is_some() { Err(self.fault(Fault::Trailing)) } else { Ok(()) }
    }

    /// An object: calls `field` for each key, and it reads the value.
    pub fn object<E: From<BadJson>>(
        &mut self,
        mut field: impl FnMut(&mut Reader<'a>, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.skip_space();
        self.expect(b'{', "an object")?;
        self.descend()?;
        let first = self.keys.len();
        self.skip_space();
        if !self.take(b'}') {
            loop {
                self.skip_space();
                let key = self.key(first)?;
                self.skip_space();
                self.expect(b':', "\":\"")?;
                field(self, &key)?;
                self.keys.push((key, self.at));
                self.skip_space();
                if self.take(b'}') {
                    break;
                }
                self.expect(b',', "\",\" or \"}\"")?;
            }
        }
        self.close_keys(first)?;
        self.depth -= 1;
        Ok(())
    }

    /// An array: calls `element` for each element, and it reads that.
    pub fn array<E: From<BadJson>>(
        &mut self,
        mut element: impl FnMut(&mut Reader<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.skip_space();
        self.expect(b'[', "an array")?;
        self.descend()?;
        self.skip_space();
        if !self.take(b']') {
            loop {
                element(self)?;
                self.skip_space();
                if self.take(b']') {
                    break;
                }
                self.expect(b',', "\",\" or \"]\"")?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// A string, without its escapes.
    pub fn string(&mut self) -> Result<Cow<'a, str>, BadJson> {
        self.skip_space();
        self.bare_string("a string")
    }

    /// `true` or `false`.
    pub fn boolean(&mut self) -> Result<bool, BadJson> {
        match self.peek()? {
            b't' => self.word("true").map(|()| true),
            b'f' => self.word("false").map(|()| false),
            _ => Err(self.unexpected("true or false")),
        }
    }

    /// A number that has no sign, fraction or exponent; `None` if it is too large.
    pub fn integer(&mut self) -> Result<Option<u64>, BadJson> {
        self.peek()?;
        let start = self.at;
        if !self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.unexpected("a whole number"));
        }
        self.number()?;
        let digits = self.text.get(start..self.at).unwrap_or_default();
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            self.at = start;
            return Err(self.unexpected("a whole number"));
        }
        Ok(digits.parse().ok())
    }

    /// Any value, without the whitespace between its tokens and else as it came.
    pub fn compact(&mut self) -> Result<Cow<'a, str>, BadJson> {
        self.skip_space();
        let start = self.at;
        self.run = start;
        self.compact.clear();
        self.value()?;
        let rest = self.text.get(self.run..self.at).unwrap_or_default();
        if self.run == start {
            return Ok(Cow::Borrowed(rest));
        }
        self.compact.push_str(rest);
        Ok(Cow::Owned(std::mem::take(&mut self.compact)))
    }

    /// Any value at the present place, inside one that is made compact.
    fn value(&mut self) -> Result<(), BadJson> {
        match self.byte() {
            Some(b'{') => {
                self.at += 1;
                self.descend()?;
                let first = self.keys.len();
                self.drop_space();
                if !self.take(b'}') {
                    loop {
                        self.drop_space();
                        let key = self.key(first)?;
                        self.keys.push((key, self.at));
                        self.drop_space();
                        self.expect(b':', "\":\"")?;
                        self.drop_space();
                        self.value()?;
                        self.drop_space();
                        if self.take(b'}') {
                            break;
                        }
                        self.expect(b',', "\",\" or \"}\"")?;
                    }
                }
                self.close_keys(first)?;
                self.depth -= 1;
                Ok(())
            }
            Some(b'[') => {
                self.at += 1;
                self.descend()?;
                self.drop_space();
                if !self.take(b']') {
                    loop {
                        self.drop_space();
                        self.value()?;
                        self.drop_space();
                        if self.take(b']') {
                            break;
                        }
                        self.expect(b',', "\",\" or \"]\"")?;
                    }
                }
                self.depth -= 1;
                Ok(())
            }
            Some(b'"') => self.bare_string("a string").map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// A key that the open object, whose keys begin at `first`, has not yet had, as far as that is quickly told.
    fn key(&mut self, first: usize) -> Result<Cow<'a, str>, BadJson> {
        let key = self.bare_string("a key in quotes")?;
        let keys = self.keys.get(first..).unwrap_or_default();
        if keys.len() <= FEW_KEYS && keys.iter().any(|(other, _)| *other == key) {
            return Err(self.fault(Fault::DoubleKey(key.into_owned())));
        }
        Ok(key)
    }

    /// The end of an object whose keys begin at `first`.
    fn close_keys(&mut self, first: usize) -> Result<(), BadJson> {
        let keys = self.keys.get_mut(first..).unwrap_or_default();
        if keys.len() > FEW_KEYS {
            keys.sort_unstable();
            for pair in keys.windows(2) {
                if let [(one, _), (other, at)] = pair
                    && one == other
                {
                    return Err(fault_at(self.text, *at, Fault::DoubleKey(one.to_string())));
                }
            }
        }
        self.keys.truncate(first);
        Ok(())
    }

    /// A string at the present place, without its escapes.
    fn bare_string(&mut self, expected: &'static str) -> Result<Cow<'a, str>, BadJson> {
        self.expect(b'"', expected)?;
        let mut plain = String::new();
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let end = memchr::memchr2(b'"', b'\\', rest.as_bytes());
            let (run, after) = rest.split_at(end.unwrap_or(rest.len()));
            // All of the run is looked at: without an early way out that takes a vector's width at once.
            if run.bytes().fold(false, |found, byte| found | (byte < 0x20)) {
                let control = run.bytes().position(|byte| byte < 0x20).unwrap_or_default();
                self.at += control;
                return Err(self.fault(Fault::Control(char::from(run.as_bytes()[control]))));
            }
            self.at += run.len();
            match after.as_bytes().first() {
                None => return Err(self.fault(Fault::Ended("the end of a string"))),
                Some(b'"') if plain.is_empty() => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(run));
                }
                Some(b'"') => {
                    self.at += 1;
                    plain.push_str(run);
                    return Ok(Cow::Owned(plain));
                }
                Some(_) => {
                    self.at += 1;
                    plain.push_str(run);
                    plain.push(self.escape()?);
                }
            }
        }
    }

    /// What comes after a backslash.
    fn escape(&mut self) -> Result<char, BadJson> {
        let Some(byte) = self.byte() else {
            return Err(self.fault(Fault::Ended("the end of a string")));
        };
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.code_unit()?;
                let code = match unit {
                    0xd800..=0xdbff => {
                        if !(self.take(b'\\') && self.take(b'u')) {
                            return Err(self.fault(Fault::Surrogate));
                        }
                        match self.code_unit()? {
                            low @ 0xdc00..=0xdfff => 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                            _ => return Err(self.fault(Fault::Surrogate)),
                        }
                    }
                    unit => unit,
                };
                char::from_u32(code).ok_or_else(|| self.fault(Fault::Surrogate))?
            }
            _ => {
                self.at -= 1;
                return Err(self.fault(Fault::Escape));
            }
        })
    }

    /// Four hexadecimal digits.
    fn code_unit(&mut self) -> Result<u32, BadJson> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            let digit = digit.ok_or_else(|| self.fault(Fault::Escape))?;
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    /// A number at the present place: `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
    fn number(&mut self) -> Result<(), BadJson> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        } else if self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.fault(Fault::Number));
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), BadJson> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault(Fault::Number)) } else { Ok(()) }
    }

    fn word(&mut self, word: &'static str) -> Result<(), BadJson> {
        if self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.unexpected("a value"))
        }
    }

    fn descend(&mut self) -> Result<(), BadJson> {
        self.depth += 1;
        if self.depth > DEEPEST { Err(self.fault(Fault::TooDeep)) } else { Ok(()) }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.byte() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), BadJson> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn skip_space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whitespace that does not belong to the compact value.
    fn drop_space(&mut self) {
        let before = self.at;
        self.skip_space();
        if self.at > before {
            self.compact.push_str(self.text.get(self.run..before).unwrap_or_default());
            self.run = self.at;
        }
    }

    fn unexpected(&self, expected: &'static str) -> BadJson {
        let found = self.text.get(self.at..).and_then(|rest| rest.chars().next());
        self.fault(match found {
            Some(found) => Fault::Unexpected { found, expected },
            None => Fault::Ended(expected),
        })
    }

    fn fault(&self, fault: Fault) -> BadJson {
        fault_at(self.text, self.at, fault)
    }
}

fn fault_at(text: &str, at: usize, fault: Fault) -> BadJson {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    // A byte that does not continue a character begins one.
    let characters = before.iter().skip(line_start).filter(|byte| **byte & 0xc0 != 0x80).count();
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    BadJson { line: lines + 1, column: characters + 1, fault }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compact(text: &[u8]) -> Result<String, BadJson> {
        let mut reader = Reader::new(text)?;
        let value = reader.compact()?.into_owned();
        reader.finish()?;
        Ok(value)
    }

    #[test]
    fn values_are_made_compact_and_nothing_else() {
        for (text, expected) in [
            ("1", "1"),
            (" -0.10e+05 ", "-0.10e+05"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("1e999", "1e999"),
            ("[ ]", "[]"),
            ("{\n}", "{}"),
            (" {\"b\" : [ 1 ,\t2 ] , \"a\":\r\nnull}", "{\"b\":[1,2],\"a\":null}"),
            (r#""a \u00e4 \/ b""#, r#""a \u00e4 \/ b""#),
            (r#"{"a b":" c "}"#, r#"{"a b":" c "}"#),
            ("[true,false , null]", "[true,false,null]"),
            (r#"{"x":{"x":{"x":1}},"y":{"x":2}}"#, r#"{"x":{"x":{"x":1}},"y":{"x":2}}"#),
        ] {
            assert_eq!(compact(text.as_bytes()), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_compact_is_not_copied() {
        let mut reader = Reader::new(br#"  {"a":[1,2]}  "#).unwrap();
        assert!(matches!(reader.compact(), Ok(Cow::Borrowed(r#"{"a":[1,2]}"#))));
        let mut reader = Reader::new(br#""plain""#).unwrap();
        assert!(matches!(reader.string(), Ok(Cow::Borrowed("plain"))));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let check = |text: &[u8], line, column, fault| {
            assert_eq!(
                compact(text),
                Err(BadJson { line, column, fault }),
                "{}",
                String::from_utf8_lossy(text)
            );
        };
        let unexpected = |found, expected| Fault::Unexpected { found, expected };
        check(b"", 1, 1, Fault::Ended("a value"));
        check(b"\n\n  ", 3, 3, Fault::Ended("a value"));
        check("{\"ä\":\n  \"ö\" 1}".as_bytes(), 2, 7, unexpected('1', "\",\" or \"}\""));
        check("ä".as_bytes(), 1, 1, unexpected('ä', "a value"));
        check(b"{\"a\":1", 1, 7, Fault::Ended("\",\" or \"}\""));
        check(b"[1,]", 1, 4, unexpected(']', "a value"));
        check(b"{\"a\":1,}", 1, 8, unexpected('}', "a key in quotes"));
        check(b"{a:1}", 1, 2, unexpected('a', "a key in quotes"));
        check(b"\"abc", 1, 5, Fault::Ended("the end of a string"));
        check(b"\"abc\\", 1, 6, Fault::Ended("the end of a string"));
        check(b"\"a\nb\"", 1, 3, Fault::Control('\n'));
        check(b"\"a\0b\"", 1, 3, Fault::Control('\0'));
        check(b"\"\\x\"", 1, 3, Fault::Escape);
        check(b"\"\\u12g4\"", 1, 6, Fault::Escape);
        check(b"\"\\ud800\"", 1, 8, Fault::Surrogate);
        check(b"\"\\ud800\\ud800\"", 1, 14, Fault::Surrogate);
        check(b"\"\\udc00\"", 1, 8, Fault::Surrogate);
        check(b"\xff", 1, 1, Fault::NotUtf8);
        check(b"{\"a\":\n\"\xed\xa0\x80\"}", 2, 2, Fault::NotUtf8);
        check(b"1 2", 1, 3, Fault::Trailing);
        check(b"\xef\xbb\xbf1", 1, 1, unexpected('\u{feff}', "a value"));
        check(b"nul", 1, 1, unexpected('n', "a value"));
        check(b"NaN", 1, 1, unexpected('N', "a value"));
        for number in ["01", "-", "1.", ".5", "1e", "+1", "-01", "1.e1", "0x1"] {
            assert!(compact(number.as_bytes()).is_err(), "{number}");
        }
    }

    #[test]
    fn a_key_twice_is_refused_at_any_level_and_in_any_spelling() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"[{"x":{"b":1,"c":[],"b":1}}]"#,
            r#"{"x":{"x":1,"y":1,"y":1}}"#,
        ] {
            assert!(
                matches!(compact(text.as_bytes()), Err(BadJson { fault: Fault::DoubleKey(_), .. })),
                "{text}"
            );
        }
        let many = |last: &str| {
            let keys: Vec<_> = (0..1000).map(|n| format!("\"k{n}\":{{\"k0\":1}}")).collect();
            format!("{{{},\"{last}\":1}}", keys.join(","))
        };
        assert!(compact(many("k1000").as_bytes()).is_ok());
        let twice = many("k500");
        let error = compact(twice.as_bytes()).unwrap_err();
        assert_eq!(error.fault, Fault::DoubleKey("k500".to_owned()));
        assert_eq!(error.column, twice.len() - 2, "the second one's end");
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(compact(nested(64).as_bytes()).is_ok());
        assert!(matches!(compact(nested(65).as_bytes()), Err(BadJson { fault: Fault::TooDeep, .. })));
        assert!(matches!(compact(nested(1_000_000).as_bytes()), Err(BadJson { fault: Fault::TooDeep, .. })));
        // What is read field by field counts too.
        let text = format!("[{}]", nested(64));
        let mut reader = Reader::new(text.as_bytes()).unwrap();
        let result: Result<(), BadJson> = reader.array(|reader| reader.compact().map(drop));
        assert!(matches!(result, Err(BadJson { fault: Fault::TooDeep, .. })));
    }

    #[test]
    fn fields_are_read_one_by_one() {
        let text =
            br#" { "s" : "a\n\ud83d\ude00", "n" : 42, "b":true , "l": [ "x" ,"y" ], "v":{ "k" : 1 } } "#;
        let mut reader = Reader::new(text).unwrap();
        let mut seen = Vec::new();
        reader
            .object(|reader, key| {
                seen.push(match key {
                    "s" => reader.string()?.into_owned(),
                    "n" => format!("{:?}", reader.integer()?),
                    "b" => reader.boolean()?.to_string(),
                    "l" => {
                        let mut list = String::new();
                        reader.array(|reader| {
                            list.push_str(&reader.string()?);
                            Ok::<(), BadJson>(())
                        })?;
                        list
                    }
                    _ => reader.compact()?.into_owned(),
                });
                Ok::<(), BadJson>(())
            })
            .unwrap();
        reader.finish().unwrap();
        assert_eq!(seen, ["a\n😀", "Some(42)", "true", "xy", r#"{"k":1}"#]);
        for bad in ["-1", "1.5", "1e3", "\"1\"", "null"] {
            assert!(Reader::new(bad.as_bytes()).unwrap().integer().is_err(), "{bad}");
        }
        assert_eq!(Reader::new(b"99999999999999999999").unwrap().integer(), Ok(None));
    }

    proptest! {
        /// The judge is serde_json, which allows double keys; what is generated has none.
        #[test]
        fn any_value_stays_the_same_value(value in any_json()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(compact(text.as_bytes()), Ok(value.to_string()));
            }
        }

        #[test]
        fn what_serde_json_refuses_is_refused(text in "[\\[\\]{}:,\"\\\\a1.e \\-tu]{0,12}") {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            if theirs.is_err() {
                // A number out of range is good JSON that serde_json can't hold.
                let too_large = theirs.is_err_and(|error| error.to_string().contains("out of range"));
                prop_assert!(too_large || compact(text.as_bytes()).is_err());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = compact(&bytes);
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..24)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
