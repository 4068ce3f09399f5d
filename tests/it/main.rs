//! What users would notice: the whole server in this process, with its HTTP interface and without a network.

mod account;
mod account_data;
mod aliases;
mod appservices;
mod backup;
mod cross_signing;
mod devices;
mod directory;
<<<<<<< HEAD
mod federation;
=======
mod emails;
>>>>>>> 4d9f593 (mail: addresses of accounts, password resets, letters about unread messages)
mod filter;
mod fuzz;
mod history;
mod keys;
mod login;
mod media;
mod membership;
mod presence;
mod profile;
mod push_rules;
mod pushers;
mod rate_limits;
mod receipts;
mod refresh;
mod registration;
mod relations;
mod rooms;
mod sending;
mod shared_secret;
mod sliding;
mod spaces;
mod state;
mod support;
mod sync;
mod threads;
mod to_device;
mod typing;
mod uiaa;
mod unread;
mod upgrades;
mod visibility;
