//! What the pages say, in the languages that we have.

use std::borrow::Cow;

use ruma::{DeviceId, ServerName, UserId, api::error::ErrorKind};

use crate::{config::Language, error::Error, sso::link::Refusal};

/// The texts of one language. Those with something in them are functions below.
pub struct Words {
    pub language: &'static str,
    tongue: Language,
    pub not_possible: &'static str,
    pub again: &'static str,
    pub go_on: &'static str,
    pub back: &'static str,
    pub done: &'static str,
    pub form_ended: &'static str,
    pub user_name: &'static str,
    pub new_user_name: &'static str,
    pub password: &'static str,
    pub password_again: &'static str,
    pub passwords_differ: &'static str,
    pub log_in: &'static str,
    pub log_out: &'static str,
    pub sign_up: &'static str,
    pub have_account: &'static str,
    pub registration_token: &'static str,
    pub read_terms: &'static str,
    pub accept_terms: &'static str,
    pub bad_client_request: &'static str,
    pub sends_to_this_machine: &'static str,
    pub client_page: &'static str,
    pub client_terms: &'static str,
    pub client_policy: &'static str,
    pub allow: &'static str,
    pub deny: &'static str,
    pub another_account: &'static str,
    pub link_title: &'static str,
    pub type_code: &'static str,
    pub no_such_code: &'static str,
    pub check_code: &'static str,
    pub device_allowed: &'static str,
    pub device_denied: &'static str,
    pub account: &'static str,
    pub profile: &'static str,
    pub display_name: &'static str,
    pub email_addresses: &'static str,
    pub save: &'static str,
    pub devices: &'static str,
    pub device_id: &'static str,
    pub last_seen: &'static str,
    pub never: &'static str,
    pub client: &'static str,
    pub no_such_device: &'static str,
    pub log_out_device: &'static str,
    pub logs_out_device: &'static str,
    pub device_logged_out: &'static str,
    pub change_password: &'static str,
    pub old_password: &'static str,
    pub new_password: &'static str,
    pub log_out_others: &'static str,
    pub password_changed: &'static str,
    pub deactivate: &'static str,
    pub deactivate_warning: &'static str,
    pub erase: &'static str,
    pub deactivated: &'static str,
    pub reset_keys: &'static str,
    pub reset_keys_warning: &'static str,
    pub reset_keys_from_client: &'static str,
    pub reset_keys_approved: &'static str,
    pub unknown_action: &'static str,
    pub log_in_ended: &'static str,
    pub program_here: &'static str,
    pub only_if_begun: &'static str,
    pub not_let_in: &'static str,
    pub is_it_you: &'static str,
}

const ENGLISH: Words = Words {
    language: "en",
    tongue: Language::English,
    not_possible: "This is not possible",
    again: "Once more",
    go_on: "Go on",
    back: "Back",
    done: "Done",
    form_ended: "This form has ended, or did not come from this page.",
    user_name: "User name or e-mail address",
    new_user_name: "User name",
    password: "Password",
    password_again: "The same password again",
    passwords_differ: "The two passwords differ.",
    log_in: "Log in",
    log_out: "Log out of these pages",
    sign_up: "Create an account",
    have_account: "I have an account",
    registration_token: "The token that you were given",
    read_terms: "Please read:",
    accept_terms: "I accept this",
    bad_client_request: "The app that sent you here asked for something that is not possible. Go back to it and try again.",
    sends_to_this_machine: "You will be sent to a program on this machine. Go on only if you have just started it.",
    client_page: "Its page:",
    client_terms: "Terms of use of the app",
    client_policy: "Privacy policy of the app",
    allow: "Allow",
    deny: "Don't allow",
    another_account: "Use another account",
    link_title: "Log in a device",
    type_code: "The code that the device shows",
    no_such_code: "No device waits for this code. It may have ended.",
    check_code: "Go on only if a device that you have in your hands shows this code. Never if somebody sent it to you.",
    device_allowed: "The device is being logged in. You can close this page.",
    device_denied: "The device is not logged in. You can close this page.",
    account: "Your account",
    profile: "Profile",
    display_name: "Name that others see",
    email_addresses: "E-mail addresses",
    save: "Save",
    devices: "Devices",
    device_id: "Device id",
    last_seen: "Last seen",
    never: "never",
    client: "App",
    no_such_device: "You have no such device.",
    log_out_device: "Log this device out",
    logs_out_device: "This logs a device of yours out. Messages whose keys are only there will be lost.",
    device_logged_out: "The device is logged out.",
    change_password: "Change the password",
    old_password: "Present password",
    new_password: "New password",
    log_out_others: "Log out all devices",
    password_changed: "Your password is changed.",
    deactivate: "Close the account",
    deactivate_warning: "This closes your account for good: you leave all rooms, lose your messages and devices, and nobody, \
                         not even you, can have this user name again.",
    erase: "Hide my messages from whoever joins later",
    deactivated: "Your account is closed.",
    reset_keys: "Reset your identity",
    reset_keys_warning: "An app of yours wants to replace the keys that prove to others who you are. They will be warned, \
                         and must verify you anew. If you did not just ask for that, somebody else uses your account: do \
                         not agree, and log that device out.",
    reset_keys_from_client: "Begin in your app: it leads you here.",
    reset_keys_approved: "Agreed. Go back to your app now.",
    unknown_action: "This page does not exist.",
    log_in_ended: "This log-in took too long, was used, or was begun in another browser. Go back to your app and begin again.",
    program_here: "a program on this machine",
    only_if_begun: "Go on only if you have just begun this yourself. Never if somebody sent you here.",
    not_let_in: "Nobody was let in. You can close this page.",
    is_it_you: "Is it you?",
};

const FRENCH: Words = Words {
    language: "fr",
    tongue: Language::French,
    not_possible: "Ce n'est pas possible",
    again: "Recommencer",
    go_on: "Continuer",
    back: "Retour",
    done: "C'est fait",
    form_ended: "Ce formulaire a expiré, ou ne vient pas de cette page.",
    user_name: "Identifiant ou adresse électronique",
    new_user_name: "Identifiant",
    password: "Mot de passe",
    password_again: "Le même mot de passe",
    passwords_differ: "Les deux mots de passe diffèrent.",
    log_in: "Se connecter",
    log_out: "Se déconnecter de ces pages",
    sign_up: "Créer un compte",
    have_account: "J'ai déjà un compte",
    registration_token: "Le jeton qui vous a été remis",
    read_terms: "Veuillez lire :",
    accept_terms: "J'accepte",
    bad_client_request: "L'application qui vous envoie ici a demandé quelque chose d'impossible. Retournez-y et réessayez.",
    sends_to_this_machine: "Vous serez renvoyé vers un programme de cette machine. Ne continuez que si vous venez de le \
                            lancer.",
    client_page: "Sa page :",
    client_terms: "Conditions d'utilisation de l'application",
    client_policy: "Politique de confidentialité de l'application",
    allow: "Autoriser",
    deny: "Ne pas autoriser",
    another_account: "Utiliser un autre compte",
    link_title: "Connecter un appareil",
    type_code: "Le code affiché par l'appareil",
    no_such_code: "Aucun appareil n'attend ce code. Il a peut-être expiré.",
    check_code: "Ne continuez que si un appareil que vous avez en main affiche ce code. Jamais si quelqu'un vous l'a envoyé.",
    device_allowed: "L'appareil se connecte. Vous pouvez fermer cette page.",
    device_denied: "L'appareil n'est pas connecté. Vous pouvez fermer cette page.",
    account: "Votre compte",
    profile: "Profil",
    display_name: "Nom visible par les autres",
    email_addresses: "Adresses électroniques",
    save: "Enregistrer",
    devices: "Appareils",
    device_id: "Identifiant de l'appareil",
    last_seen: "Vu pour la dernière fois",
    never: "jamais",
    client: "Application",
    no_such_device: "Vous n'avez pas cet appareil.",
    log_out_device: "Déconnecter cet appareil",
    logs_out_device: "Ceci déconnecte un de vos appareils. Les messages dont il est seul à avoir les clés seront perdus.",
    device_logged_out: "L'appareil est déconnecté.",
    change_password: "Changer de mot de passe",
    old_password: "Mot de passe actuel",
    new_password: "Nouveau mot de passe",
    log_out_others: "Déconnecter tous les appareils",
    password_changed: "Votre mot de passe est changé.",
    deactivate: "Fermer le compte",
    deactivate_warning: "Ceci ferme votre compte définitivement : vous quittez tous les salons, perdez vos messages et vos \
                         appareils, et personne, pas même vous, ne pourra reprendre cet identifiant.",
    erase: "Cacher mes messages à ceux qui arriveront plus tard",
    deactivated: "Votre compte est fermé.",
    reset_keys: "Réinitialiser votre identité",
    reset_keys_warning: "Une de vos applications veut remplacer les clés qui prouvent aux autres qui vous êtes. Ils seront \
                         avertis et devront vous vérifier de nouveau. Si vous ne venez pas de le demander, quelqu'un d'autre \
                         utilise votre compte : refusez, et déconnectez cet appareil.",
    reset_keys_from_client: "Commencez dans votre application : elle vous mènera ici.",
    reset_keys_approved: "C'est accepté. Retournez maintenant à votre application.",
    unknown_action: "Cette page n'existe pas.",
    log_in_ended: "Cette connexion a trop duré, a déjà servi ou vient d'un autre navigateur. Retournez à votre application et \
                   recommencez.",
    program_here: "un programme de cette machine",
    only_if_begun: "Ne continuez que si vous venez de le commencer vous-même. Jamais si quelqu'un vous a envoyé ici.",
    not_let_in: "Personne n'a été autorisé. Vous pouvez fermer cette page.",
    is_it_you: "Est-ce bien vous ?",
};

impl Words {
    pub fn of(language: Language) -> &'static Self {
        match language {
            Language::English => &ENGLISH,
            Language::French => &FRENCH,
        }
    }

    pub fn on_server(&self, server: &ServerName) -> String {
        match self.tongue {
            Language::English => format!("with your account at {server}"),
            Language::French => format!("avec votre compte sur {server}"),
        }
    }

    pub fn let_in_title(&self, client: &str) -> String {
        match self.tongue {
            Language::English => format!("Let {client} in?"),
            Language::French => format!("Autoriser {client} ?"),
        }
    }

    pub fn let_in(&self, client: &str, user: &UserId) -> String {
        match self.tongue {
            Language::English => format!("{client} wants to read and write in your name, as {user}."),
            Language::French => format!("{client} veut lire et écrire en votre nom, en tant que {user}."),
        }
    }

    pub fn sends_to(&self, place: &str) -> String {
        match self.tongue {
            Language::English => format!("You will be sent to {place}."),
            Language::French => format!("Vous serez renvoyé vers {place}."),
        }
    }

    pub fn replaces_device(&self, device: &DeviceId) -> String {
        match self.tongue {
            Language::English => format!("It takes the place of your device {device}, which is logged out."),
            Language::French => format!("Elle prend la place de votre appareil {device}, qui sera déconnecté."),
        }
    }

    pub fn user_id_again(&self, user: &UserId) -> String {
        match self.tongue {
            Language::English => format!("Type your user id, {user}, to confirm"),
            Language::French => format!("Écrivez votre identifiant, {user}, pour confirmer"),
        }
    }

    pub fn log_in_with(&self, provider: &str) -> String {
        match self.tongue {
            Language::English => format!("Log in with {provider}"),
            Language::French => format!("Se connecter avec {provider}"),
        }
    }

    pub fn denied_by(&self, provider: &str) -> String {
        match self.tongue {
            Language::English => format!("{provider} did not let you in. Go back to your app to try again."),
            Language::French => {
                format!("{provider} ne vous a pas identifié. Retournez à votre application pour réessayer.")
            }
        }
    }

    pub fn no_use_of(&self, provider: &str) -> String {
        match self.tongue {
            Language::English => {
                format!(
                    "{provider} can't be used at the moment. If that goes on, tell the administrators of this server."
                )
            }
            Language::French => format!(
                "{provider} n'est pas utilisable pour le moment. Si cela persiste, prévenez les administrateurs de ce serveur."
            ),
        }
    }

    /// Why somebody whom a provider knows has no account here.
    pub fn not_admitted(&self, refusal: Refusal, provider: &str) -> String {
        let (english, french) = match refusal {
            Refusal::NoAccount => ("you have no account here", "vous n'avez pas de compte ici"),
            Refusal::NoName => ("it gives no name that an account could have", "il ne donne pas de nom pour un compte"),
            Refusal::NameTaken => ("the name of your account is taken", "l'identifiant de votre compte est déjà pris"),
            Refusal::NoEmail => ("it gives no e-mail address that is proved", "il ne donne pas d'adresse vérifiée"),
            Refusal::EmailOfAnother => (
                "the account with your e-mail address is somebody else's",
                "le compte qui a votre adresse électronique est celui d'une autre personne",
            ),
        };
        match self.tongue {
            Language::English => {
                format!("{provider} knows you, but {english}. The administrators of this server can help.")
            }
            Language::French => {
                format!("{provider} vous connaît, mais {french}. Adressez-vous aux administrateurs de ce serveur.")
            }
        }
    }

    pub fn as_other_user(&self, user: &UserId) -> String {
        match self.tongue {
            Language::English => format!("Your app asks for {user}, but somebody else is logged in here."),
            Language::French => format!("Votre application demande {user}, mais une autre personne est connectée ici."),
        }
    }

    pub fn app_wants(&self, user: &UserId, operation: &str) -> String {
        match self.tongue {
            Language::English => format!("An app of {user} wants to {operation}."),
            Language::French => format!("Une application de {user} veut {operation}."),
        }
    }

    /// What a request to an endpoint does, after "wants to".
    pub fn operation(&self, endpoint: &str) -> &'static str {
        let known = [
            ("/account/deactivate", "close the account for good", "fermer le compte définitivement"),
            ("/account/password", "change the password", "changer le mot de passe"),
            ("/account/3pid", "add an e-mail address", "ajouter une adresse électronique"),
            ("/delete_devices", "log devices out", "déconnecter des appareils"),
            ("DELETE ", "log a device out", "déconnecter un appareil"),
            (
                "/keys/device_signing/upload",
                "replace the keys that prove to others who you are",
                "remplacer les clés qui prouvent aux autres qui vous êtes",
            ),
            ("/login/get_token", "log another device in", "connecter un autre appareil"),
        ];
        let found = known.into_iter().find(|(part, ..)| endpoint.contains(part));
        let other = ("", "do something that only you may do", "faire quelque chose que vous seul pouvez faire");
        let (_, english, french) = found.unwrap_or(other);
        match self.tongue {
            Language::English => english,
            Language::French => french,
        }
    }

    /// What a person is told of a refusal; `None` if it is no fault of his. English ones say more.
    pub fn of_error(&self, error: &Error) -> Option<Cow<'static, str>> {
        let Error::Refused { kind, message, .. } = error else { return None };
        if self.tongue == Language::English {
            return Some(message.clone());
        }
        let errcode = kind.errcode();
        Some(Cow::Borrowed(match kind {
            ErrorKind::Forbidden => "Identifiant ou mot de passe incorrect, ou action non permise.",
            ErrorKind::UserLocked => "Ce compte est verrouillé.",
            ErrorKind::UserDeactivated => "Ce compte est fermé.",
            ErrorKind::UserSuspended => "Ce compte est suspendu.",
            ErrorKind::LimitExceeded(_) => "Trop de tentatives. Attendez un peu.",
            ErrorKind::UserInUse => "Cet identifiant est pris.",
            ErrorKind::InvalidUsername => "Un identifiant se compose de a-z, 0-9 et ._=-/+",
            ErrorKind::Unauthorized => "Ce jeton n'est pas valable.",
            ErrorKind::MissingParam => "Il manque quelque chose.",
            _ if errcode.as_str().contains("PASSWORD") => "Ce mot de passe n'est pas assez sûr.",
            _ => return Some(message.clone()),
        }))
    }
}
