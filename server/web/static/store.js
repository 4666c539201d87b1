// Conversations and settings, kept in this browser.

const read = (name, otherwise) => {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
};

/** Conversations, newest first: {id, title, messages: [{role, content, note?}], updated}. */
export const chats = read('trit.chats', []);

export function saveChats() {
  for (;;) {
    try {
      localStorage.setItem('trit.chats', JSON.stringify(chats));
      return;
    } catch { // full: the oldest one goes
      if (chats.length < 2) return;
      chats.pop();
    }
  }
}

export const defaults = { temperature: 0.7, top_p: 0.95, top_k: 40, min_p: 0, repetition_penalty: 1.05, max_tokens: 1024, seed: '', system: '', key: '', model: '' };
export const settings = { ...defaults, ...read('trit.settings', {}) };

export function saveSettings() {
  try {
    localStorage.setItem('trit.settings', JSON.stringify(settings));
  } catch { /* kept for this visit */ }
}
