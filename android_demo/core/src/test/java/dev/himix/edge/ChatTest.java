package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** Conversations of several turns, against the Python session's. */
public class ChatTest {
    @Test
    @SuppressWarnings("unchecked")
    public void conversationsThatTakeTurnsGivePythonsTokens() {
        Session session = Fixtures.session();
        Map<String, Object> all = Fixtures.answers("conversations");
        Map<String, Chat> chats = new HashMap<>();
        for (Map.Entry<String, Map<String, Object>> entry : ((Map<String, Map<String, Object>>) all.get("chats")).entrySet()) {
            List<ImageKV> images = new ArrayList<>();
            for (Object image : (List<?>) entry.getValue().get("images")) {
                images.add(session.encodeImage(Fixtures.photo((String) image)));
            }
            Object system = entry.getValue().get("system");
            ImageKV image = images.isEmpty() ? null : ImageKV.join(images);
            chats.put(entry.getKey(), session.chat(image, system == null ? "" : (String) system));
        }
        List<Map<String, Object>> turns = (List<Map<String, Object>>) all.get("turns");
        assertTrue(turns.size() >= 7);
        for (Map<String, Object> turn : turns) {
            Answer answer = new Answer();
            Chat chat = chats.get(turn.get("chat"));
            chat.send((String) turn.get("prompt"), Answer.greedy(Fixtures.number(turn, "limit")), answer);
            assertArrayEquals(turn.toString(), Fixtures.ints(turn.get("token_ids")), answer.ids());
        }
        assertTrue(chats.get("full").used() > 500);
        InputException error = assertThrows(
                InputException.class, () -> chats.get("full").send("and?", Answer.greedy(4), new Answer()));
        assertTrue(error.getMessage(), error.getMessage().endsWith("shorten it or start a new chat"));
    }

    @Test
    public void aFurtherTurnComputesItsOwnTokensOnly() {
        Session session = Fixtures.session();
        ImageKV image = session.encodeImage(Fixtures.photo("easy-vqa-0.png"));
        Chat chat = session.chat(image, "");
        Stats first = chat.send("what is the red shape?", Answer.greedy(8), new Answer());
        int used = chat.used();
        assertEquals(image.tokens + first.promptTokens + first.newTokens, used);
        Stats second = chat.send("what color is it?", Answer.greedy(8), new Answer());
        assertTrue(second.promptTokens < first.promptTokens + 12);
        assertEquals(used + second.promptTokens + second.newTokens, chat.used());
    }

    @Test
    public void anAnswerThatWasEndedCountsAsFarAsItWasHeard() {
        Session session = Fixtures.session();
        ImageKV image = session.encodeImage(Fixtures.photo("easy-vqa-0.png"));
        List<int[]> answers = new ArrayList<>();
        for (boolean disturbed : new boolean[] {false, true}) {
            Chat chat = session.chat(image, "");
            int[] heard = {0};
            chat.send("Describe the image.", Answer.greedy(16), (token, text) -> ++heard[0] < 2);
            assertEquals(2, heard[0]);
            if (disturbed) { // its tokens are written into the cache anew
                session.generate("And here?", Fixtures.photo("easy-vqa-1.png"), Answer.greedy(4), new Answer());
            }
            Answer answer = new Answer();
            chat.send("what color is it?", Answer.greedy(16), answer);
            answers.add(answer.ids());
        }
        assertArrayEquals(answers.get(0), answers.get(1));
    }

    @Test
    public void imagesOfDifferentModelsAreNotJoined() {
        Fixtures.loadRuntime();
        ImageKV one = new ImageKV(false, 1, 1, 1, 4, "abc", 0);
        ImageKV other = new ImageKV(false, 1, 1, 1, 4, "def", 0);
        assertThrows(InputException.class, () -> ImageKV.join(Arrays.asList(one, other)));
        ImageKV vanilla = new ImageKV(false, 1, 1, 1, 4, "abc", 1);
        assertThrows(InputException.class, () -> ImageKV.join(Arrays.asList(vanilla, vanilla)));
        assertThrows(InputException.class, () -> ImageKV.join(new ArrayList<>()));
        assertEquals(2, ImageKV.join(Arrays.asList(one, one)).tokens);
    }
}
