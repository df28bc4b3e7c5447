//! Who comes and goes, told step by step.

use tidings_wire::Pattern;

use super::*;

const GRACE: u64 = 5000;

fn presence() -> Presence {
    Presence::new(PresenceConfig { listed: 3, ..PresenceConfig::new(2) })
}

fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

fn channel(name: &str) -> Channel {
    Channel::stored(name).unwrap()
}

fn views(texts: &[&str]) -> Vec<View> {
    texts.iter().map(|text| text.parse::<Pattern>().unwrap().into()).collect()
}

fn watched(presence: &mut Presence, name: &str) -> Channel {
    let channel = channel(name);
    assert!(!presence.watch(0, &channel));
    presence.count(0, &channel, Census::default);
    presence.count(1, &channel, Census::default);
    assert!(presence.watch(1, &channel));
    presence.snapshot(&channel);
    channel
}

fn said(ticked: &Ticked) -> Vec<String> {
    let mut said = Vec::new();
    for digest in &ticked.digests {
        let joined = digest.joined.iter().map(|(user, _)| format!("+{user}"));
        let left = digest.left.iter().map(|user| format!("-{user}"));
        let who: Vec<_> = joined.chain(left).collect();
        said.push(format!("{}: {} ({})", digest.channel, who.join(" "), digest.connections));
    }
    said.extend(ticked.transitions.iter().map(|t| format!("{} {} {}", t.user, t.online, t.at.0)));
    said
}

#[test]
fn a_reconnect_is_no_leave_and_no_join() {
    let mut presence = presence();
    let room = watched(&mut presence, "room");
    let (ann, follows) = (user("ann"), views(&["room", "other"]));
    presence.enter(0, Some(&ann), None, &follows, Timestamp(1000));
    assert_eq!(said(&presence.tick(Timestamp(1100))), ["room: +ann (1)", "ann true 1000"]);
    presence.leave(0, Some(&ann), &follows, Timestamp(2000));
    assert_eq!(said(&presence.tick(Timestamp(2200))), ["room:  (0)"], "only that there is no connection");
    assert_eq!(presence.user(&ann), Some(Standing { connections: 0, left: Some(Timestamp(2000)) }));
    assert_eq!(presence.snapshot(&room).users[0].connections, 0);
    presence.enter(1, Some(&ann), None, &follows, Timestamp(2000 + GRACE - 1));
    assert_eq!(said(&presence.tick(Timestamp(2000 + GRACE))), ["room:  (1)"]);
    presence.leave(1, Some(&ann), &follows, Timestamp(9000));
    presence.tick(Timestamp(9001 + 1000));
    assert!(said(&presence.tick(Timestamp(9000 + GRACE - 1))).is_empty());
    assert_eq!(said(&presence.tick(Timestamp(9000 + GRACE))), ["room: -ann (0)", "ann false 9000"]);
    assert_eq!((presence.user(&ann), presence.online()), (None, 0));
}

#[test]
fn a_connection_counts_once_however_many_views_show_a_channel() {
    let mut presence = presence();
    let room = watched(&mut presence, "a/b");
    let follows = views(&["a/b", "a/*", "**", "b/*"]);
    presence.enter(0, None, None, &follows, Timestamp(0));
    presence.enter(0, Some(&user("ann")), None, &views(&["*/b"]), Timestamp(0));
    presence.enter(0, None, None, &views(&["a", "a/b/c", "*", "$all"]), Timestamp(0));
    let roll = presence.snapshot(&room);
    assert_eq!((roll.connections, roll.users.len(), roll.truncated), (2, 1, false));
    presence.change(0, None, &follows, &views(&["**"]), Timestamp(1));
    assert_eq!(presence.snapshot(&room).connections, 2);
    presence.change(0, None, &views(&["**"]), &views(&["c"]), Timestamp(1));
    assert_eq!(presence.snapshot(&room).connections, 1);
}

#[test]
fn a_crowd_is_a_digest_a_second_that_names_a_few() {
    let mut presence = presence();
    watched(&mut presence, "room");
    let follows = views(&["room"]);
    let mut digests = Vec::new();
    for n in 0..10_000_u64 {
        presence.enter(0, Some(&user(&format!("{n:05}"))), None, &follows, Timestamp(n));
        digests.extend(presence.tick(Timestamp(n)).digests);
    }
    assert_eq!(digests.len(), 10);
    assert_eq!(digests.iter().map(|d| d.joined.len() as u64 + d.joined_more).sum::<u64>(), 9001);
    assert!(digests.iter().all(|digest| digest.joined.len() <= 3));
    let roll = presence.snapshot(&channel("room"));
    assert_eq!((roll.connections, roll.users.len(), roll.truncated), (10_000, 3, true));
    for n in 0..10_000_u64 {
        presence.leave(0, Some(&user(&format!("{n:05}"))), &follows, Timestamp(20_000));
    }
    presence.tick(Timestamp(21_000));
    let last = presence.tick(Timestamp(20_000 + GRACE)).digests;
    assert_eq!((last[0].left.len(), last[0].left_more, last[0].connections), (3, 9997, 0));
}

#[test]
fn what_a_part_says_counts_from_its_own_census_on() {
    let mut presence = presence();
    let room = channel("room");
    let (ann, follows) = (user("ann"), views(&["room"]));
    assert!(!presence.watch(0, &room));
    // It was there before it was counted, and is in the census.
    presence.enter(1, Some(&ann), None, &follows, Timestamp(0));
    let mut census = Census::default();
    census.add(Some(&ann));
    presence.count(1, &room, || census.clone());
    presence.count(1, &room, || panic!("a second census"));
    presence.enter(1, Some(&user("bob")), None, &follows, Timestamp(0));
    presence.count(0, &room, Census::default);
    assert!(presence.tick(Timestamp(1)).digests.is_empty(), "there is nobody to be told");
    assert_eq!(presence.snapshot(&room).users.len(), 2);
    presence.enter(1, None, None, &follows, Timestamp(0));
    let digest = &presence.tick(Timestamp(1)).digests[0];
    assert!(digest.joined.is_empty(), "who was shown has not joined since");
    assert_eq!((digest.connections, &digest.parts[..]), (3, &[0][..]));
    presence.unwatch(0, &room, Timestamp(0));
    assert_eq!(presence.watched(), 0);
    presence.leave(1, Some(&ann), &follows, Timestamp(9));
    assert!(presence.tick(Timestamp(99_999)).digests.is_empty());
}

#[test]
fn a_snapshot_amid_changes_is_corrected_by_the_next_digest() {
    let mut presence = Presence::new(PresenceConfig { grace: Duration::ZERO, ..PresenceConfig::new(2) });
    let room = watched(&mut presence, "room");
    let (ann, follows) = (user("ann"), views(&["room"]));
    presence.tick(Timestamp(0));
    presence.enter(0, None, None, &follows, Timestamp(0));
    presence.tick(Timestamp(0));
    presence.enter(0, Some(&ann), None, &follows, Timestamp(100));
    assert_eq!(presence.snapshot(&room).users[0].user, ann);
    presence.leave(0, Some(&ann), &follows, Timestamp(200));
    let ticked = [presence.tick(Timestamp(300)), presence.tick(Timestamp(1000))];
    assert_eq!(ticked[1].digests[0].left, [ann], "who got the snapshot has to know");
    presence.enter(0, None, None, &follows, Timestamp(1100));
    assert_eq!(presence.snapshot(&room).connections, 2);
    presence.leave(0, None, &follows, Timestamp(1200));
    assert_eq!(
        presence.tick(Timestamp(2000)).digests[0].connections,
        1,
        "as it was, but not as it was shown"
    );
}

#[test]
fn the_newest_token_says_what_is_told_of_a_user() {
    let mut presence = presence();
    let room = watched(&mut presence, "room");
    let (ann, follows) = (user("ann"), views(&["room"]));
    let info = |text: &str| Info::from(text);
    presence.enter(0, Some(&ann), Some(&info("{\"n\":1}")), &follows, Timestamp(0));
    presence.enter(0, Some(&ann), Some(&info("{\"n\":2}")), &follows, Timestamp(1));
    let digest = presence.tick(Timestamp(1)).digests.remove(0);
    assert_eq!(digest.joined, [(ann.clone(), Some(info("{\"n\":2}")))]);
    let mut here = Census::default();
    here.add(Some(&ann));
    assert_eq!(presence.members(here, 1).users[0].info, Some(info("{\"n\":2}")));
    presence.enter(0, Some(&ann), None, &follows, Timestamp(2));
    assert_eq!(presence.snapshot(&room).users[0].info, None);
}

#[test]
fn other_nodes_count_until_their_lease_is_over() {
    let mut presence = presence();
    let room = watched(&mut presence, "room");
    let (ann, follows) = (user("ann"), views(&["room"]));
    let news = |connections| {
        let member = |user, connections| News::Member { channel: channel("room"), user, connections };
        [
            News::User { user: user("ann"), connections, info: None },
            member(Some(user("ann")), connections),
            member(None, 3),
        ]
    };
    let other = NodeId::new(9);
    presence.node(other, Timestamp(10_000), news(2), Timestamp(0));
    presence.node(other, Timestamp(10_000), news(2), Timestamp(0));
    let ticked = presence.tick(Timestamp(0));
    assert_eq!(
        said(&ticked),
        ["room: +ann (5)", "ann true 0"],
        "this is the first node, which speaks for all"
    );
    assert_eq!((presence.elsewhere(&ann), presence.snapshot(&room).connections), (2, 5));
    // She moves here within the grace time: nothing is said of that.
    presence.node(other, Timestamp(10_000), news(0), Timestamp(1000));
    presence.enter(0, Some(&ann), None, &follows, Timestamp(2000));
    assert_eq!(said(&presence.tick(Timestamp(8000))), ["room:  (4)"]);
    presence.leave(0, Some(&ann), &follows, Timestamp(8100));
    presence.node(other, Timestamp(10_000), news(1), Timestamp(8200));
    presence.tick(Timestamp(9999));
    assert_eq!(presence.user(&ann).unwrap().connections, 1);
    // It dies, and this one is the first of those who are left.
    let ticked = presence.tick(Timestamp(11_000));
    assert_eq!(said(&ticked), ["room:  (0)"]);
    assert_eq!(said(&presence.tick(Timestamp(16_000))), ["room: -ann (0)", "ann false 11000"]);
    assert_eq!(presence.nodes.len(), 0);
}

#[test]
fn another_node_is_told_what_it_watches_and_no_more() {
    let mut presence = presence();
    presence.share();
    let other = NodeId::new(9);
    let (ann, follows) = (user("ann"), views(&["room", "hall"]));
    presence.enter(0, Some(&ann), None, &follows, Timestamp(0));
    let told = News::User { user: ann.clone(), connections: 1, info: None };
    assert_eq!(presence.news(), std::slice::from_ref(&told));
    assert_eq!(presence.news(), []);
    let watch = |watched| News::Watch { channel: channel("room"), watched };
    let hear = |presence: &mut Presence, news| presence.node(other, Timestamp(9999), [news], Timestamp(0));
    assert_eq!(hear(&mut presence, watch(true)), [channel("room")], "to be counted");
    assert_eq!(hear(&mut presence, watch(true)), []);
    let mut census = Census::default();
    census.add(Some(&ann));
    presence.count(0, &channel("room"), || census);
    presence.count(1, &channel("room"), Census::default);
    let member =
        |connections| News::Member { channel: channel("room"), user: Some(user("ann")), connections };
    assert_eq!(presence.news(), [News::Whole { channel: channel("room") }, member(1)]);
    assert_eq!(presence.all_news(), [News::Spoke, told, News::Whole { channel: channel("room") }, member(1)]);
    // What it says of a channel that nobody watches here is not followed.
    hear(&mut presence, member(3));
    presence.leave(0, Some(&ann), &follows, Timestamp(1));
    let gone = News::User { user: ann.clone(), connections: 0, info: None };
    assert_eq!(presence.news(), [gone, member(0)]);
    hear(&mut presence, watch(false));
    assert!(presence.rooms.is_empty());
}

#[test]
fn who_was_there_at_a_crash_and_stays_away_goes_offline() {
    let mut presence = presence();
    let (ann, bob) = (user("ann"), user("bob"));
    for who in [&ann, &bob] {
        presence.recover(who, Timestamp(30_000), Timestamp(0));
    }
    assert!(presence.tick(Timestamp(29_999)).transitions.is_empty());
    presence.enter(0, Some(&bob), None, &[], Timestamp(29_999));
    assert_eq!(said(&presence.tick(Timestamp(30_000))), ["ann false 0"]);
    assert_eq!(presence.online(), 1);
}

#[test]
fn a_stop_is_no_leaving() {
    let mut presence = presence();
    let ann = user("ann");
    presence.enter(0, Some(&ann), None, &[], Timestamp(0));
    presence.tick(Timestamp(0));
    presence.freeze();
    presence.leave(0, Some(&ann), &[], Timestamp(0));
    assert_eq!(presence.tick(Timestamp(99_999)), Ticked::default());
}
