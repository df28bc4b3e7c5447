use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tidings_wire::{Number, TagValue, Tags};

use super::{BadFilter, Filter, Wrong};

fn tags(all: &[(&str, TagValue)]) -> Tags {
    Tags::new(all.iter().map(|(name, value)| ((*name).into(), value.clone()))).unwrap()
}

fn number(value: f64) -> TagValue {
    TagValue::Number(Number::new(value).unwrap())
}

fn text(value: &str) -> TagValue {
    TagValue::Text(value.into())
}

fn matches(filter: &str, tags: &Tags) -> bool {
    filter.parse::<Filter>().unwrap_or_else(|bad| panic!("{filter}: {bad}")).matches(tags)
}

#[test]
fn conditions_over_tags() {
    let event = tags(&[
        ("priority", number(5.0)),
        ("region", text("eu-west")),
        ("urgent", TagValue::Bool(true)),
        ("muted", TagValue::Bool(false)),
        ("größe", number(-0.5)),
        ("has", number(1.0)),
        ("quoted", text("a\"b'c\\\n")),
    ]);
    for yes in [
        "priority > 3",
        "3 < priority",
        "priority >= 5 && priority <= 5.0 && priority == 5e0",
        "tags.priority == 5",
        "tags['priority'] != 6",
        "tags[\"größe\"] < 0",
        "region == 'eu-west'",
        "region > \"eu\" && region < \"ev\"",
        "region in [\"us\", 'eu-west']",
        "priority in [1, 5]",
        "region.startsWith('eu')",
        "tags . region . startsWith ( \"\" )",
        "urgent",
        "urgent && !muted",
        "urgent == true && muted == false && muted < urgent",
        "!muted",
        "!absent",
        "!(absent == 1)",
        "!!urgent",
        "has(urgent) && has( tags.muted ) && !has(absent)",
        "has == 1 && has(has)",
        "muted && muted || urgent",
        "urgent || muted && muted",
        "(urgent || muted) && !(urgent && muted)",
        "quoted == 'a\"b\\'c\\\\\\n' && quoted == \"a\\x22b\\u0027c\\134\\U0000000a\"",
        "priority != 'five'",
        "absent in [] || 1 in [1]",
        "\turgent\n&&\r\ntrue",
    ] {
        assert!(matches(yes, &event), "{yes}");
        assert!(!matches(&format!("!({yes})"), &event), "!({yes})");
    }
    for no in [
        "absent",
        "absent == 1",
        "absent != 1",
        "absent < 1",
        "1 != absent",
        "absent == absent",
        "absent in [1]",
        "absent.startsWith('')",
        "has(absent)",
        "priority",
        "region",
        "priority == '5'",
        "priority < 'a'",
        "priority > true",
        "urgent == 'true'",
        "priority.startsWith('5')",
        "priority in ['5', true]",
        "priority in []",
        "false",
        "(urgent || muted) && muted",
    ] {
        assert!(!matches(no, &event), "{no}");
    }
}

#[test]
fn what_says_the_same_is_equal() {
    for (given, normal) in [
        ("tags.a==1.0", "a == 1"),
        ("((a))&&(b&&(c))", "a && b && c"),
        ("a||(b||c)", "a || b || c"),
        ("(a&&b)||c", "a && b || c"),
        ("a&&(b||c)", "a && (b || c)"),
        ("!(a)", "!a"),
        ("!!!a", "!a"),
        ("!(a.startsWith('x'))", "!a.startsWith(\"x\")"),
        ("!(a<1)", "!(a < 1)"),
        ("3<=a", "a >= 3"),
        ("tags['a b']in['x',2,-1e300,true]", "tags[\"a b\"] in [\"x\", 2, -1e300, true]"),
        ("tags['in'] && tags.tags", "tags[\"in\"] && tags[\"tags\"]"),
        ("a == '\\x07\"'", "a == \"\\u0007\\\"\""),
        ("a == -0", "a == 0"),
    ] {
        let filter: Filter = given.parse().unwrap();
        assert_eq!(filter.as_str(), normal);
        assert_eq!(normal.parse::<Filter>().unwrap(), filter);
    }
    assert_ne!("a == 1".parse::<Filter>().unwrap(), "a == '1'".parse::<Filter>().unwrap());
}

#[test]
fn what_is_wrong_is_shown_where_it_is() {
    let expected = |text: &str| format!("expected {text}");
    for (filter, column, why) in [
        ("", 1, expected("a tag, a value")),
        ("   ", 4, expected("a tag, a value")),
        ("a ==", 5, expected("a tag or a value")),
        ("a = 1", 3, expected("==, !=")),
        ("a & b", 3, expected("&&, || or the end")),
        ("a && ", 6, expected("a tag, a value")),
        ("ä == 1", 1, expected("a tag, a value")),
        ("tags.größe", 8, expected("&&, || or the end")),
        ("a == 'ä' b", 10, expected("&&, || or the end")),
        ("(a == 1", 8, expected("&&, || or \")\"")),
        ("a == 1)", 7, expected("&&, || or the end")),
        ("a < b < c", 7, expected("&&, || or the end")),
        ("1", 2, expected("==, !=")),
        ("'x' && a", 5, expected("==, !=")),
        ("a in 1", 6, expected("\"[\"")),
        ("a in [1", 8, expected("\",\" or \"]\"")),
        ("a in [b]", 7, expected("a value:")),
        ("a in [1,]", 9, expected("a value:")),
        ("has(1)", 5, expected("the name of a tag")),
        ("has(a", 6, expected("\")\"")),
        ("a.size()", 3, expected("startsWith")),
        ("a.startsWith(1)", 14, expected("a text")),
        ("tags == 1", 6, expected("\".\" or \"[\"")),
        ("tags[a]", 6, expected("a text")),
        ("a == 1x", 6, "this is no finite".to_owned()),
        ("a == 0x10", 6, "this is no finite".to_owned()),
        ("a == 1.", 6, "this is no finite".to_owned()),
        ("a == 1.2.3", 6, "this is no finite".to_owned()),
        ("a == 1e999", 6, "this is no finite".to_owned()),
        ("a == - 1", 6, "this is no finite".to_owned()),
        ("a == 'b", 6, "this text has no closing".to_owned()),
        ("a == 'b\n'", 6, "this text has no closing".to_owned()),
        ("a == 'ä\\q'", 8, "a backslash".to_owned()),
        ("a == '\\ud800'", 7, "a backslash".to_owned()),
        ("a == '\\400'", 7, "a backslash".to_owned()),
        ("a == '\\x+f'", 7, "a backslash".to_owned()),
        ("null == a", 1, "this word".to_owned()),
        ("a == b && for", 11, "this word".to_owned()),
        ("tags.in", 6, "this word".to_owned()),
        ("!a == 1", 4, "\"!\" binds tighter".to_owned()),
        ("!a in [1]", 4, "\"!\" binds tighter".to_owned()),
    ] {
        let bad = filter.parse::<Filter>().unwrap_err();
        assert_eq!(bad.column, column, "{filter}: {bad}");
        assert!(bad.wrong.to_string().starts_with(&why), "{filter}: {bad}");
    }
    assert_eq!(
        "a = 1".parse::<Filter>().unwrap_err().to_string(),
        "column 3: expected ==, !=, <, <=, >, >= or in"
    );
}

#[test]
fn filters_have_limits() {
    let bad = |text: &str| text.parse::<Filter>().err();
    let long = |len: usize| format!("a == '{}'", "x".repeat(len - 7));
    assert_eq!(bad(&long(1024)), None);
    assert_eq!(bad(&long(1025)), Some(BadFilter { column: 1025, wrong: Wrong::TooLong }));
    let deep = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    assert_eq!(bad(&deep(32)), None);
    assert_eq!(bad(&deep(33)), Some(BadFilter { column: 33, wrong: Wrong::TooDeep }));
    assert_eq!(bad(&format!("{}a", "!".repeat(33))), Some(BadFilter { column: 33, wrong: Wrong::TooDeep }));
    let many = |terms: usize| vec!["a"; terms].join("||");
    assert_eq!(bad(&many(100)), None);
    assert_eq!(bad(&many(101)), Some(BadFilter { column: 301, wrong: Wrong::TooMany }));
    let list = |len: usize| format!("a in [{}]", vec!["1"; len].join(","));
    assert_eq!(bad(&list(99)), None);
    assert_eq!(bad(&list(100)).map(|bad| bad.wrong), Some(Wrong::TooMany));
}

#[test]
fn to_ask_allocates_nothing() {
    let filter: Filter =
        "(region in ['us', 'eu'] || !urgent) && name.startsWith('a') && priority != 3".parse().unwrap();
    let event = tags(&[("region", text("eu")), ("name", text("abc")), ("priority", number(5.0))]);
    let allocated = allocation_counter::measure(|| assert!(filter.matches(&event)));
    assert_eq!(allocated.count_total, 0);
}

/// A filter, and another way to ask it.
#[derive(Debug, Clone)]
enum Plain {
    Or(Vec<Plain>),
    And(Vec<Plain>),
    Not(Box<Plain>),
    Compare(Side, &'static str, Side),
    In(Side, Vec<TagValue>),
    Starts(String, String),
    Has(String),
    Tag(String),
    Always(bool),
}

#[derive(Debug, Clone)]
enum Side {
    Tag(String),
    Value(TagValue),
}

impl Plain {
    fn holds(&self, tags: &Tags) -> bool {
        match self {
            Plain::Or(parts) => parts.iter().map(|part| part.holds(tags)).filter(|holds| *holds).count() > 0,
            Plain::And(parts) => parts.iter().filter(|part| !part.holds(tags)).count() == 0,
            Plain::Not(part) => !part.holds(tags),
            Plain::Compare(left, operator, right) => {
                let (left, right) = (left.value(tags), right.value(tags));
                if left.is_none() || right.is_none() {
                    return false;
                }
                let (less, greater) = match (&left, &right) {
                    (Some(TagValue::Text(a)), Some(TagValue::Text(b))) => (a < b, a > b),
                    (Some(TagValue::Bool(a)), Some(TagValue::Bool(b))) => (!a & b, a & !b),
                    (Some(TagValue::Number(a)), Some(TagValue::Number(b))) => {
                        (a.get() < b.get(), a.get() > b.get())
                    }
                    _ => (false, false),
                };
                match *operator {
                    "==" => left == right,
                    "!=" => left != right,
                    "<" => less,
                    "<=" => less || left == right,
                    ">" => greater,
                    _ => greater || left == right,
                }
            }
            Plain::In(side, list) => {
                let value = side.value(tags);
                list.iter().any(|other| value.as_ref() == Some(other))
            }
            Plain::Starts(name, start) => match tags.get(name) {
                Some(TagValue::Text(text)) => text.find(start.as_str()) == Some(0),
                _ => false,
            },
            Plain::Has(name) => tags.iter().any(|(tag, _)| tag == name),
            Plain::Tag(name) => tags.iter().any(|tag| tag == (name, &TagValue::Bool(true))),
            Plain::Always(value) => *value,
        }
    }

    /// Its text, in one of the ways it can be written.
    fn written(&self, dice: &mut Dice) -> String {
        let joined = |parts: &[Plain], between: &str, dice: &mut Dice| {
            let parts: Vec<String> = parts.iter().map(|part| part.within(dice)).collect();
            parts.join(&format!("{}{between}{}", dice.space(), dice.space()))
        };
        match self {
            Plain::Or(parts) => joined(parts, "||", dice),
            Plain::And(parts) => joined(parts, "&&", dice),
            Plain::Not(part) => format!("!{}{}", dice.space(), part.within(dice)),
            Plain::Compare(left, operator, right) => {
                let (left, right) = (left.written(dice), right.written(dice));
                format!("{left}{}{operator}{}{right}", dice.space(), dice.space())
            }
            Plain::In(side, list) => {
                let list: Vec<String> = list.iter().map(|value| written(value, dice)).collect();
                format!(
                    "{} in{}[{}]",
                    side.written(dice),
                    dice.space(),
                    list.join(&format!("{},", dice.space()))
                )
            }
            Plain::Starts(name, start) => {
                format!("{}.startsWith({}{})", tag(name, dice), dice.space(), quoted(start, dice))
            }
            Plain::Has(name) => format!("has({}{})", tag(name, dice), dice.space()),
            Plain::Tag(name) => tag(name, dice),
            Plain::Always(value) => value.to_string(),
        }
    }

    fn within(&self, dice: &mut Dice) -> String {
        let simple = matches!(self, Plain::Starts(..) | Plain::Has(_) | Plain::Tag(_) | Plain::Always(_));
        let inner = self.written(dice);
        if simple && dice.roll(2) == 0 { inner } else { format!("({inner}{})", dice.space()) }
    }
}

impl Side {
    fn value(&self, tags: &Tags) -> Option<TagValue> {
        match self {
            Side::Tag(name) => tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.clone()),
            Side::Value(value) => Some(value.clone()),
        }
    }

    fn written(&self, dice: &mut Dice) -> String {
        match self {
            Side::Tag(name) => tag(name, dice),
            Side::Value(value) => written(value, dice),
        }
    }
}

fn written(value: &TagValue, dice: &mut Dice) -> String {
    match value {
        TagValue::Text(text) => quoted(text, dice),
        TagValue::Number(number) if dice.roll(2) == 0 => format!("{:e}", number.get()),
        TagValue::Number(number) => number.get().to_string(),
        TagValue::Bool(value) => value.to_string(),
    }
}

fn tag(name: &str, dice: &mut Dice) -> String {
    match name {
        "a" | "b" | "has" if dice.roll(3) == 0 => name.to_owned(),
        "a" | "b" | "has" if dice.roll(2) == 0 => format!("tags.{name}"),
        _ => format!("tags[{}]", quoted(name, dice)),
    }
}

fn quoted(text: &str, dice: &mut Dice) -> String {
    let quote = ["\"", "'"][dice.roll(2)];
    let inner: String = text
        .chars()
        .map(|c| match c {
            '\n' => "\\n".to_owned(),
            '"' | '\'' | '\\' => format!("\\{c}"),
            c if dice.roll(4) == 0 => format!("\\U{:08x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("{quote}{inner}{quote}")
}

/// Chooses among ways to write the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn space(&mut self) -> &'static str {
        ["", " ", "", "\t "][self.roll(4)]
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "has", "in", "tags", "größe", "x \"y'"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = TagValue> {
    prop_oneof![
        prop::sample::select(vec!["", "a", "ab", "b", "é\n"]).prop_map(text),
        prop::sample::select(vec![0.0, 1.0, -1.0, 0.5, 1e300, 1e-7]).prop_map(number),
        any::<bool>().prop_map(TagValue::Bool),
    ]
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![3 => name().prop_map(Side::Tag), 2 => value().prop_map(Side::Value)]
}

fn plain() -> impl Strategy<Value = Plain> {
    let operator = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let start = prop::sample::select(vec!["", "a", "é"]).prop_map(str::to_owned);
    let leaf = prop_oneof![
        4 => (side(), operator, side()).prop_map(|(left, operator, right)| Plain::Compare(left, operator, right)),
        2 => (side(), vec(value(), 0..4)).prop_map(|(side, list)| Plain::In(side, list)),
        1 => (name(), start).prop_map(|(name, start)| Plain::Starts(name, start)),
        1 => name().prop_map(Plain::Has),
        1 => name().prop_map(Plain::Tag),
        1 => any::<bool>().prop_map(Plain::Always),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..4).prop_map(Plain::Or),
            vec(inner.clone(), 1..4).prop_map(Plain::And),
            inner.prop_map(|part| Plain::Not(Box::new(part))),
        ]
    })
}

fn some_tags() -> impl Strategy<Value = Tags> {
    btree_map(name(), value(), 0..8)
        .prop_map(|all| Tags::new(all.into_iter().map(|(name, value)| (name.into(), value))).unwrap())
}

proptest! {
    // They are quick, and a wrong answer for two equal values is met once in a thousand.
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_filter_says_what_its_text_says(plain in plain(), events in vec(some_tags(), 1..8), dice: u64) {
        let text = plain.written(&mut Dice(dice));
        let filter = match text.parse::<Filter>() {
            Err(BadFilter { wrong: Wrong::TooLong, .. }) => return Ok(()),
            read => read.unwrap(),
        };
        for tags in &events {
            prop_assert_eq!(filter.matches(tags), plain.holds(tags), "{} of {:?}", &text, tags);
        }
    }

    #[test]
    fn the_normal_form_is_one(plain in plain(), one: u64, other: u64) {
        let read = |dice| plain.written(&mut Dice(dice)).parse::<Filter>();
        if let (Ok(one), Ok(other)) = (read(one), read(other)) {
            prop_assert_eq!(&one, &other);
            if one.as_str().len() <= Filter::LONGEST {
                let again: Filter = one.as_str().parse().unwrap();
                prop_assert_eq!(again.as_str(), one.as_str());
            }
        }
    }

    #[test]
    fn any_text_is_a_filter_or_wrong_somewhere(text in ".{0,60}") {
        if let Err(bad) = text.parse::<Filter>() {
            prop_assert!((1..=text.chars().count() + 1).contains(&bad.column));
        }
    }

    /// The same of what looks like a filter.
    #[test]
    fn any_words_are_a_filter_or_wrong_somewhere(
        words in vec(prop::sample::select(vec![
            "a", "tags", ".", "[", "]", "(", ")", "!", "==", "!=", "<", "in", "has", "startsWith", "&&", "||", ",",
            "'x'", "\"", "'", "\\", "1", "-", ".5", "1e", "true", "null", " ", "é", "\n", "=", "&",
        ]), 0..24)
    ) {
        let text = words.concat();
        match text.parse::<Filter>() {
            Ok(filter) => prop_assert_eq!(&filter.as_str().parse::<Filter>().unwrap(), &filter),
            Err(bad) => prop_assert!((1..=text.chars().count() + 1).contains(&bad.column)),
        }
    }
}
