package dev.himix.edge;

import java.util.ArrayList;
import java.util.List;

/** What stands around a message of each role, and which tokens end an answer. It is data and executes nothing. */
public final class ChatTemplate {
    final String[] user;
    final String[] assistant;
    final String[] system;
    final boolean knowsSystem;
    final List<String> stop;
    final String bos;
    final String defaultSystem;

    private static final int LONGEST = 4096; // characters of a piece that is searched for special tokens

    ChatTemplate(Fields template) {
        template.only("user", "assistant", "system", "stop", "bos", "default_system", "said");
        user = pair(template, "user");
        assistant = pair(template, "assistant");
        knowsSystem = template.has("system");
        system = knowsSystem ? pair(template, "system") : new String[] {"", ""};
        stop = new ArrayList<String>(template.strings("stop"));
        if (stop.isEmpty()) {
            throw template.wrong("stop", "at least one token");
        }
        template.string("said", ""); // stands before answers in a history, which this app never writes
        bos = template.string("bos", "");
        if (bos.length() > LONGEST) {
            throw template.wrong("bos", "of at most " + LONGEST + " characters");
        }
        defaultSystem = template.string("default_system", "");
        if (!knowsSystem && !defaultSystem.isEmpty()) {
            throw template.wrong("default_system", "empty in a template without system");
        }
    }

    private static String[] pair(Fields template, String role) {
        List<String> pair = template.strings(role);
        if (pair.size() != 2) {
            throw template.wrong(role, "a prefix and a suffix");
        }
        for (String piece : pair) {
            if (piece.length() > LONGEST) {
                throw template.wrong(role, "of at most " + LONGEST + " characters");
            }
        }
        return new String[] {pair.get(0), pair.get(1)};
    }
}
