//! What the letters say, in the languages that we have.

use ruma::ServerName;

use crate::{config::Language, user::email::Purpose};

/// A letter in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub subject: String,
    pub text: String,
}

/// The language that a client asks for in `Accept-Language`, or the usual one.
pub fn language(accept_language: Option<&str>, usual: Language) -> Language {
    let wanted = accept_language.unwrap_or_default().split(',').filter_map(|wanted| {
        let mut parts = wanted.split(';');
        let tag = parts.next()?.trim().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.trim().strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        let language = match tag.split('-').next()? {
            "en" => Language::English,
            "fr" => Language::French,
            _ => return None,
        };
        (weight > 0.0).then_some((weight, language))
    });
    // Of equal weights the first counts.
    let best = wanted.reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map_or(usual, |(_, language)| language)
}

/// For whoever registers: confirm that the address is yours.
pub fn register(language: Language, server: &ServerName, link: &str) -> Letter {
    match language {
        Language::English => Letter {
            subject: format!("Confirm your address for {server}"),
            text: format!(
                "Hello,\n\nsomebody, hopefully you, is making an account at {server} with this e-mail address. \
                 To confirm it, open\n\n{link}\n\nIf it was not you, ignore this message.\n"
            ),
        },
        Language::French => Letter {
            subject: format!("Confirmez votre adresse pour {server}"),
            text: format!(
                "Bonjour,\n\nun compte est en cours de création sur {server} avec cette adresse électronique. \
                 Si vous en êtes à l'origine, confirmez-la en ouvrant\n\n{link}\n\n\
                 Sinon, ne tenez pas compte de ce message.\n"
            ),
        },
    }
}

/// For whoever has an account and gives his address for another one: nobody else learns that there is one.
pub fn registered_already(language: Language, server: &ServerName) -> Letter {
    match language {
        Language::English => Letter {
            subject: format!("You have an account at {server}"),
            text: format!(
                "Hello,\n\nsomebody, hopefully you, tried to use this e-mail address for an account at {server}. \
                 It belongs to one already: log in to that, or reset its password if you do not know it any more.\n\n\
                 If it was not you, ignore this message.\n"
            ),
        },
        Language::French => Letter {
            subject: format!("Vous avez déjà un compte sur {server}"),
            text: format!(
                "Bonjour,\n\nquelqu'un, sans doute vous, a voulu utiliser cette adresse électronique pour un compte sur \
                 {server}. Elle est déjà celle d'un compte : connectez-vous, ou réinitialisez son mot de passe si \
                 vous l'avez oublié.\n\nSinon, ne tenez pas compte de ce message.\n"
            ),
        },
    }
}

/// For whoever forgot his password.
pub fn reset(language: Language, server: &ServerName, link: &str) -> Letter {
    match language {
        Language::English => Letter {
            subject: format!("A new password for {server}"),
            text: format!(
                "Hello,\n\nsomebody, hopefully you, wants to give your account at {server} a new password. \
                 To allow it, open\n\n{link}\n\n\
                 If it was not you, ignore this message: your password stays as it is.\n"
            ),
        },
        Language::French => Letter {
            subject: format!("Nouveau mot de passe pour {server}"),
            text: format!(
                "Bonjour,\n\nquelqu'un, sans doute vous, veut donner un nouveau mot de passe à votre compte sur \
                 {server}. Pour l'autoriser, ouvrez\n\n{link}\n\n\
                 Sinon, ne tenez pas compte de ce message : votre mot de passe ne change pas.\n"
            ),
        },
    }
}

/// For a user who adds an address to his account.
pub fn add(language: Language, server: &ServerName, link: &str) -> Letter {
    match language {
        Language::English => Letter {
            subject: format!("Confirm your address for {server}"),
            text: format!(
                "Hello,\n\nsomebody, hopefully you, is adding this e-mail address to an account at {server}. \
                 To confirm it, open\n\n{link}\n\nIf it was not you, ignore this message.\n"
            ),
        },
        Language::French => Letter {
            subject: format!("Confirmez votre adresse pour {server}"),
            text: format!(
                "Bonjour,\n\nquelqu'un, sans doute vous, ajoute cette adresse électronique à un compte sur {server}. \
                 Pour la confirmer, ouvrez\n\n{link}\n\nSinon, ne tenez pas compte de ce message.\n"
            ),
        },
    }
}

/// A message that was not read.
pub struct Unread {
    pub room: String,
    pub sender: String,
    /// `None` if the server can't read it.
    pub text: Option<String>,
}

/// For a user who wants to hear by e-mail of what he has not read. `count`: of all, of which some are shown.
pub fn unread(language: Language, server: &ServerName, shown: &[Unread], count: usize) -> Letter {
    let (hidden, greeting, end) = match language {
        Language::English => (
            "(a message that only your devices can read)",
            format!("Hello,\n\nyou have {count} unread messages at {server}:"),
            "You get this message because you asked for it in the settings of your Matrix client.",
        ),
        Language::French => (
            "(un message que seuls vos appareils peuvent lire)",
            format!("Bonjour,\n\nvous avez {count} messages non lus sur {server} :"),
            "Vous recevez ce message parce que vous l'avez demandé dans les réglages de votre client Matrix.",
        ),
    };
    let subject = match language {
        Language::English => format!("{count} unread messages at {server}"),
        Language::French => format!("{count} messages non lus sur {server}"),
    };
    let mut text = greeting;
    let mut room = None;
    for message in shown {
        if room != Some(&message.room) {
            text.push_str(&format!("\n\n{}\n", message.room));
            room = Some(&message.room);
        }
        text.push_str(&format!("\n  {}: {}", message.sender, message.text.as_deref().unwrap_or(hidden)));
    }
    if shown.len() < count {
        text.push_str("\n  …");
    }
    text.push_str(&format!("\n\n{end}\n"));
    Letter { subject, text }
}

/// The texts of the page where the link of a letter leads.
pub struct Page {
    pub title: &'static str,
    pub ask: &'static str,
    pub button: &'static str,
    pub done: &'static str,
    pub go_on: &'static str,
}

/// Says what is confirmed: the letter may have come while nobody asked for it.
pub fn page(language: Language, purpose: Purpose) -> Page {
    match language {
        Language::English => {
            let (title, ask, button, done) = match purpose {
                Purpose::Register => (
                    "Confirm your e-mail address",
                    "Somebody is making an account with this e-mail address. Go on only if it was you.",
                    "I confirm",
                    "Your address is confirmed. You can go on where you came from.",
                ),
                Purpose::ResetPassword => (
                    "A new password",
                    "Somebody asked to set a new password for your account. Go on only if it was you.",
                    "Allow a new password",
                    "A new password is allowed. You can go on where you came from.",
                ),
                Purpose::Add => (
                    "Confirm your e-mail address",
                    "Somebody asked to add this e-mail address to an account. Go on only if it was you.",
                    "Add to the account",
                    "Your address is confirmed. You can go on where you came from.",
                ),
            };
            Page { title, ask, button, done, go_on: "Go on" }
        }
        Language::French => {
            let (title, ask, button, done) = match purpose {
                Purpose::Register => (
                    "Confirmer votre adresse électronique",
                    "Un compte est en cours de création avec cette adresse électronique. Ne continuez que si vous en \
                     êtes à l'origine.",
                    "Je confirme",
                    "Votre adresse est confirmée. Vous pouvez poursuivre là d'où vous venez.",
                ),
                Purpose::ResetPassword => (
                    "Nouveau mot de passe",
                    "Un nouveau mot de passe a été demandé pour votre compte. Ne continuez que si vous en êtes à \
                     l'origine.",
                    "Autoriser un nouveau mot de passe",
                    "Un nouveau mot de passe est autorisé. Vous pouvez poursuivre là d'où vous venez.",
                ),
                Purpose::Add => (
                    "Confirmer votre adresse électronique",
                    "L'ajout de cette adresse électronique à un compte a été demandé. Ne continuez que si vous en \
                     êtes à l'origine.",
                    "Ajouter au compte",
                    "Votre adresse est confirmée. Vous pouvez poursuivre là d'où vous venez.",
                ),
            };
            Page { title, ask, button, done, go_on: "Poursuivre" }
        }
    }
}

/// The texts of the page where a link leads that confirms nothing.
pub struct Ended {
    pub title: &'static str,
    pub text: &'static str,
}

pub fn ended(language: Language) -> Ended {
    match language {
        Language::English => Ended {
            title: "There is nothing to confirm",
            text: "This link has ended, or is wrong. Ask for another one where you came from.",
        },
        Language::French => Ended {
            title: "Rien à confirmer",
            text: "Ce lien a expiré ou n'est pas valable. Demandez-en un autre là d'où vous venez.",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_language_wins() {
        let of = |header: &str| language(Some(header), Language::English);
        assert_eq!(of("fr-FR,fr;q=0.9,en;q=0.8"), Language::French);
        assert_eq!(of("en;q=0.5, fr;q=0.7"), Language::French);
        assert_eq!(of("de, fr;q=0, en;q=0.1"), Language::English);
        assert_eq!(of("de, *"), Language::English);
        assert_eq!(language(Some("de"), Language::French), Language::French);
        assert_eq!(language(None, Language::French), Language::French);
    }
}
