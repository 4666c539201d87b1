// Markdown to DOM nodes that can do nothing: whatever a model writes, no script of it runs, nothing is
// loaded from elsewhere, and no form or style of it gets onto the page.
import { marked } from './vendor/marked.js';
import DOMPurify from './vendor/dompurify.js';

const policy = {
  ALLOWED_TAGS: ['p', 'br', 'hr', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'strong', 'em', 'del', 'code', 'pre', 'blockquote',
    'ul', 'ol', 'li', 'a', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'sub', 'sup', 'kbd'],
  ALLOWED_ATTR: ['href', 'title', 'start', 'align'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  KEEP_CONTENT: true,
  RETURN_DOM_FRAGMENT: true,
};

marked.use({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text), // markup in an answer is text to be read
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
  },
});

function escape(text) {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** Renders text as a fragment. */
export function markdown(text) {
  const nodes = DOMPurify.sanitize(marked.parse(text), policy);
  for (const a of nodes.querySelectorAll('a')) {
    a.target = '_blank';
    a.rel = 'noopener noreferrer nofollow';
  }
  return nodes;
}
