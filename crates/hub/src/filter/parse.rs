//! From a text to a filter's expression.
//!
//! By recursive descent over the characters:
//!
//! ```text
//! any     = all ("||" all)*
//! all     = term ("&&" term)*
//! term    = "!" term | "(" any ")" | "has" "(" tag ")" | tag "." "startsWith" "(" text ")"
//!         | operand operator operand | operand "in" "[" [literal ("," literal)*] "]" | tag | "true" | "false"
//! operand = tag | literal
//! tag     = word | "tags" "." word | "tags" "[" text "]"
//! ```
//!
//! What is left of CEL means what it means there, so that a filter can be tried in any CEL tool with the tags as the
//! variable `tags`. Where CEL's precedence would surprise (`!a == b`), nothing is guessed.

use tidings_wire::{Number, TagValue};

use super::expression::{Expression, Operand, Operator};
use super::{BadFilter, Filter, Wrong};

/// Words that are something else than a tag, wherever they stand.
const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];
/// Words that CEL keeps for languages around it.
const RESERVED: [&str; 18] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "tags",
];

/// Longer ones first, as they begin alike.
const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

const CONDITION: &str = "a tag, a value, has(…), \"!\" or \"(\"";
const COMPARISON: &str = "==, !=, <, <=, >, >= or in";
const OPERAND: &str = "a tag or a value (a text in quotes, a number, true or false)";
const VALUE: &str = "a value: a text in quotes, a number, true or false";
const TAG: &str = "the name of a tag";
const TEXT: &str = "a text in quotes";

pub(super) fn parse(text: &str) -> Result<Expression, BadFilter> {
    let mut parser = Parser { text, at: 0, depth: 0, terms: 0 };
    if text.len() > Filter::LONGEST {
        return Err(parser.wrong_at(text.floor_char_boundary(Filter::LONGEST), Wrong::TooLong));
    }
    let expression = parser.any()?;
    if parser.peek().is_some() {
        return Err(parser.expected("&&, || or the end"));
    }
    Ok(expression)
}

/// Whether a tag of this name needs neither brackets nor quotes.
pub(super) fn can_be_bare(name: &str) -> bool {
    word_len(name) == name.len() && !name.is_empty() && !KEYWORDS.contains(&name) && !RESERVED.contains(&name)
}

/// How many bytes at the beginning are a word.
fn word_len(text: &str) -> usize {
    let mut bytes = text.bytes();
    match bytes.next() {
        Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => {
            1 + bytes.take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count()
        }
        _ => 0,
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Where it is, in bytes.
    at: usize,
    depth: usize,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self) -> Result<Expression, BadFilter> {
        let mut parts = Vec::new();
        loop {
            match self.all()? {
                Expression::Any(inner) => parts.extend(inner),
                other => parts.push(other),
            }
            if !self.eat("||") {
                return Ok(one_or(parts, Expression::Any));
            }
        }
    }

    fn all(&mut self) -> Result<Expression, BadFilter> {
        let mut parts = Vec::new();
        loop {
            match self.term(false)? {
                Expression::All(inner) => parts.extend(inner),
                other => parts.push(other),
            }
            if !self.eat("&&") {
                return Ok(one_or(parts, Expression::All));
            }
        }
    }

    fn term(&mut self, negated: bool) -> Result<Expression, BadFilter> {
        if self.eat("!") {
            return self.nested(|parser| Ok(parser.term(true)?.negated()));
        }
        if self.eat("(") {
            let inner = self.nested(Parser::any)?;
            self.require(")", "&&, || or \")\"")?;
            return Ok(inner);
        }
        self.count()?;
        if self.eat_has() {
            let name = self.tag()?;
            self.require(")", "\")\"")?;
            return Ok(Expression::Has(name));
        }
        let left = self.operand(CONDITION)?;
        if let Operand::Tag(name) = &left
            && self.eat(".")
        {
            let start = self.starts_with()?;
            return Ok(Expression::StartsWith(name.clone(), start));
        }
        let before = self.at;
        let operator = OPERATORS.iter().find(|(text, _)| self.eat(text)).map(|(_, operator)| *operator);
        let list = operator.is_none() && self.eat_word("in");
        if negated && (operator.is_some() || list) {
            self.at = before;
            self.space();
            return Err(self.wrong(Wrong::Negation));
        }
        if let Some(operator) = operator {
            let right = self.operand(OPERAND)?;
            return Ok(Expression::compare(left, operator, right));
        }
        if list {
            return Ok(Expression::In(left, self.list()?));
        }
        match left {
            // "a = 1", and "a and b".
            Operand::Tag(_) if matches!(self.peek(), Some('=')) => Err(self.expected(COMPARISON)),
            Operand::Tag(name) => Ok(Expression::Tag(name)),
            Operand::Value(TagValue::Bool(value)) => Ok(Expression::Constant(value)),
            Operand::Value(_) => Err(self.expected(COMPARISON)),
        }
    }

    /// What is within one more pair of parentheses, or negated once more.
    fn nested(
        &mut self,
        inner: impl FnOnce(&mut Parser<'a>) -> Result<Expression, BadFilter>,
    ) -> Result<Expression, BadFilter> {
        if self.depth == Filter::DEEPEST {
            return Err(self.wrong_at(self.at - 1, Wrong::TooDeep));
        }
        self.depth += 1;
        let expression = inner(self);
        self.depth -= 1;
        expression
    }

    fn operand(&mut self, expected: &'static str) -> Result<Operand, BadFilter> {
        match self.literal()? {
            Some(value) => Ok(Operand::Value(value)),
            None if self.word().is_some() => Ok(Operand::Tag(self.tag()?)),
            None => Err(self.expected(expected)),
        }
    }

    fn tag(&mut self) -> Result<Box<str>, BadFilter> {
        let Some(word) = self.word() else { return Err(self.expected(TAG)) };
        let start = self.at;
        self.at += word.len();
        if word != "tags" {
            return if can_be_bare(word) {
                Ok(word.into())
            } else {
                Err(self.wrong_at(start, Wrong::Reserved))
            };
        }
        if self.eat("[") {
            let name = self.text()?.ok_or_else(|| self.expected(TEXT))?;
            self.require("]", "\"]\"")?;
            return Ok(name);
        }
        self.require(".", "\".\" or \"[\" and the name of a tag")?;
        match self.word() {
            Some(word) if KEYWORDS.contains(&word) => Err(self.wrong(Wrong::Reserved)),
            Some(word) => {
                self.at += word.len();
                Ok(word.into())
            }
            None => Err(self.expected(TAG)),
        }
    }

    fn starts_with(&mut self) -> Result<Box<str>, BadFilter> {
        if !self.eat_word("startsWith") {
            return Err(self.expected("startsWith(\"…\"), the only function of a tag"));
        }
        self.require("(", "\"(\"")?;
        let start = self.text()?.ok_or_else(|| self.expected(TEXT))?;
        self.require(")", "\")\"")?;
        Ok(start)
    }

    fn list(&mut self) -> Result<Box<[TagValue]>, BadFilter> {
        self.require("[", "\"[\" and a list of values")?;
        let mut values = Vec::new();
        if self.eat("]") {
            return Ok(Box::default());
        }
        loop {
            self.count()?;
            values.push(self.literal()?.ok_or_else(|| self.expected(VALUE))?);
            if self.eat("]") {
                return Ok(values.into());
            }
            self.require(",", "\",\" or \"]\"")?;
        }
    }

    fn literal(&mut self) -> Result<Option<TagValue>, BadFilter> {
        if let Some(text) = self.text()? {
            return Ok(Some(TagValue::Text(text)));
        }
        Ok(match self.peek() {
            Some('0'..='9' | '-' | '.') => Some(TagValue::Number(self.number()?)),
            _ if self.eat_word("true") => Some(TagValue::Bool(true)),
            _ if self.eat_word("false") => Some(TagValue::Bool(false)),
            _ => None,
        })
    }

    /// An optional sign, digits, a point with digits, an exponent.
    fn number(&mut self) -> Result<Number, BadFilter> {
        let start = self.at;
        let digits = |parser: &mut Self| {
            let count = parser.rest().bytes().take_while(u8::is_ascii_digit).count();
            parser.at += count;
            count
        };
        let sign = |parser: &mut Self, signs: &[char]| {
            parser.at += usize::from(parser.rest().starts_with(signs));
        };
        sign(self, &['-']);
        let mut readable = digits(self) > 0;
        if self.rest().starts_with('.') {
            self.at += 1;
            readable = digits(self) > 0;
        }
        if self.rest().starts_with(['e', 'E']) {
            self.at += 1;
            sign(self, &['-', '+']);
            readable &= digits(self) > 0;
        }
        // Neither "3x" nor "0x10", and no "1.2.3".
        let ends = !self.rest().starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        let number = self.text[start..self.at].parse().ok().and_then(Number::new);
        number.filter(|_| readable && ends).ok_or_else(|| self.wrong_at(start, Wrong::Number))
    }

    /// A text in quotes of one of both kinds, if there is one.
    fn text(&mut self) -> Result<Option<Box<str>>, BadFilter> {
        let Some(quote @ ('"' | '\'')) = self.peek() else { return Ok(None) };
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let at = self.at;
            match self.next() {
                Some(end) if end == quote => return Ok(Some(text.into())),
                Some('\\') => text.push(self.escape().ok_or_else(|| self.wrong_at(at, Wrong::Escape))?),
                None | Some('\r' | '\n') => return Err(self.wrong_at(start, Wrong::Unclosed)),
                Some(character) => text.push(character),
            }
        }
    }

    /// What an escape stands for, behind its backslash.
    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            same @ ('\\' | '?' | '"' | '\'' | '`') => same,
            'x' | 'X' => self.code(2, 16)?,
            'u' => self.code(4, 16)?,
            'U' => self.code(8, 16)?,
            '0'..='3' => {
                self.at -= 1;
                self.code(3, 8)?
            }
            _ => return None,
        })
    }

    /// A code point in so many digits.
    fn code(&mut self, digits: usize, radix: u32) -> Option<char> {
        let text = self.rest().get(..digits)?;
        if !text.chars().all(|c| c.is_digit(radix)) {
            return None;
        }
        self.at += digits;
        char::from_u32(u32::from_str_radix(text, radix).ok()?)
    }

    /// One more condition, or element of a list.
    fn count(&mut self) -> Result<(), BadFilter> {
        self.space();
        if self.terms == Filter::MOST_TERMS {
            return Err(self.wrong(Wrong::TooMany));
        }
        self.terms += 1;
        Ok(())
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest().chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r', '\x0c']).len();
    }

    /// The next character that is no space.
    fn peek(&mut self) -> Option<char> {
        self.space();
        self.rest().chars().next()
    }

    /// The word that comes next, which is not taken.
    fn word(&mut self) -> Option<&'a str> {
        self.space();
        let word = &self.rest()[..word_len(self.rest())];
        (!word.is_empty()).then_some(word)
    }

    fn eat(&mut self, text: &str) -> bool {
        self.space();
        let there = self.rest().starts_with(text);
        if there {
            self.at += text.len();
        }
        there
    }

    fn eat_word(&mut self, word: &str) -> bool {
        self.word() == Some(word) && self.eat(word)
    }

    /// `has(`; a tag may be called `has`.
    fn eat_has(&mut self) -> bool {
        let before = self.at;
        let has = self.eat_word("has") && self.eat("(");
        if !has {
            self.at = before;
        }
        has
    }

    fn require(&mut self, text: &str, expected: &'static str) -> Result<(), BadFilter> {
        if self.eat(text) { Ok(()) } else { Err(self.expected(expected)) }
    }

    fn expected(&mut self, what: &'static str) -> BadFilter {
        self.space();
        self.wrong(Wrong::Expected(what))
    }

    fn wrong(&self, wrong: Wrong) -> BadFilter {
        self.wrong_at(self.at, wrong)
    }

    fn wrong_at(&self, at: usize, wrong: Wrong) -> BadFilter {
        BadFilter { column: self.text[..at].chars().count() + 1, wrong }
    }
}

/// A list of one is that one.
fn one_or(mut parts: Vec<Expression>, list: fn(Box<[Expression]>) -> Expression) -> Expression {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            list(parts.into())
        }
    }
}
