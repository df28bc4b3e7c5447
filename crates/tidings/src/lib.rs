//! Push events to the people looking at your pages: hub, log, server and client as a library.
