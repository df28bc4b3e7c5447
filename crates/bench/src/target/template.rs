//! Texts with names in braces.

/// A text in which `{channel}` and the like stand for what is known later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(Name),
}

/// What a template's names stand for; a name that is not given stays empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    /// `{channel}`
    pub channel: &'a str,
    /// `{data}`, and `{json}` inside of a JSON string.
    pub data: &'a str,
    /// `{port}`, `{port2}`, `{port3}`
    pub ports: [u16; 3],
    /// `{tmp}`
    pub tmp: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Channel,
    Data,
    Json,
    Port(usize),
    Tmp,
}

const NAMES: [(&str, Name); 7] = [
    ("{channel}", Name::Channel),
    ("{data}", Name::Data),
    ("{json}", Name::Json),
    ("{port}", Name::Port(0)),
    ("{port2}", Name::Port(1)),
    ("{port3}", Name::Port(2)),
    ("{tmp}", Name::Tmp),
];

impl Template {
    /// Every text is a template: braces around any other word are just braces, for bodies are often JSON.
    pub fn new(text: &str) -> Template {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        'text: while let Some(first) = rest.chars().next() {
            for (name, meaning) in NAMES {
                if let Some(after) = rest.strip_prefix(name) {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Name(meaning));
                    rest = after;
                    continue 'text;
                }
            }
            plain.push(first);
            rest = &rest[first.len_utf8()..];
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Template { parts }
    }

    /// The text with the values in place.
    pub fn fill(&self, values: &Values<'_>) -> String {
        self.fill_with(values, str::to_owned)
    }

    /// The same for a request's path: what stands for a name is percent-encoded, but for `/`.
    pub fn fill_path(&self, values: &Values<'_>) -> String {
        self.fill_with(values, percent_encoded)
    }

    fn fill_with(&self, values: &Values<'_>, spell: fn(&str) -> String) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Name(Name::Channel) => text.push_str(&spell(values.channel)),
                Part::Name(Name::Data) => text.push_str(&spell(values.data)),
                Part::Name(Name::Json) => text.push_str(&json_escaped(values.data)),
                Part::Name(Name::Port(which)) => text.push_str(&values.ports[*which].to_string()),
                Part::Name(Name::Tmp) => text.push_str(values.tmp),
            }
        }
        text
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn json_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            '\0'..='\u{1f}' => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{Template, Values};

    fn fill(template: &str) -> String {
        let values = Values { channel: "a/b c", data: "@@1 \"x\"", ports: [1, 2, 3], tmp: "/tmp/x" };
        Template::new(template).fill(&values)
    }

    #[test]
    fn names_are_replaced_and_other_braces_stay() {
        assert_eq!(fill("{port} {port2} {port3} {tmp}"), "1 2 3 /tmp/x");
        assert_eq!(fill(r#"{"c":"{channel}","d":{"t":"{json}"}}"#), r#"{"c":"a/b c","d":{"t":"@@1 \"x\""}}"#);
        assert_eq!(fill("{data"), "{data");
    }

    #[test]
    fn in_a_path_values_are_encoded_and_the_template_is_not() {
        let values = Values { channel: "a/b c", data: "@@1 x;", ..Values::default() };
        assert_eq!(
            Template::new("/p?c={channel}&d={data}").fill_path(&values),
            "/p?c=a/b%20c&d=%40%401%20x%3B"
        );
    }
}
