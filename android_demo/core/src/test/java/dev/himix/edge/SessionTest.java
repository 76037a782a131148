package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.junit.Test;

/** The session against the Python session, on the same bundle. */
public class SessionTest {
    @Test
    public void hundredRealQuestionsGiveThePythonSessionsTokens() {
        Session session = Fixtures.session();
        List<Map<String, Object>> questions = Fixtures.questions();
        Set<Object> images = new HashSet<>();
        for (Map<String, Object> question : questions) {
            Session.Photo photo = Fixtures.photo((String) question.get("image"));
            images.add(question.get("image"));
            String what = question.get("image") + " " + question.get("prompt");
            byte[] pixels = Resize.toSquare(photo.decode(), session.bundle.model.imageSize, session.bundle.filter);
            assertEquals(what, question.get("pixels_sha256"), Files.sha256(pixels));
            Answer cold = new Answer();
            Stats stats = session.generate((String) question.get("prompt"), photo, Answer.greedy(16), cold);
            assertArrayEquals(what, Fixtures.ints(question.get("token_ids")), cold.ids());
            assertEquals(what, question.get("pieces"), cold.pieces);
            assertEquals(what, question.get("finish_reason"), stats.finishReason);
            assertEquals(what, Fixtures.ints(question.get("prompt_ids")).length, stats.promptTokens);
            assertTrue(stats.preprocess > 0 && stats.visionEncoder > 0 && stats.visionInjector > 0);
            double stages = stats.preprocess + stats.visionEncoder + stats.visionInjector + stats.prefill;
            assertTrue(what, stats.ttft >= stages);
        }
        assertEquals(100, images.size());
        assertTrue(questions.size() >= 100);
    }

    @Test
    public void keptImageAnswersTheSameUnderAnyPrompt() {
        Session session = Fixtures.session();
        Map<String, Object> first = Fixtures.questions().get(0);
        ImageKV kept = session.encodeImage(Fixtures.photo((String) first.get("image")));
        int asked = 0;
        for (Map<String, Object> question : Fixtures.questions()) {
            if (question.get("image").equals(first.get("image"))) {
                Answer answer = new Answer();
                Stats stats = session.generate((String) question.get("prompt"), kept, Answer.greedy(16), answer);
                assertArrayEquals(Fixtures.ints(question.get("token_ids")), answer.ids());
                assertEquals(0, stats.visionEncoder, 0);
                assertTrue(stats.ttft > 0);
                asked++;
            }
        }
        assertTrue(asked > 1);
    }

    @Test
    public void selfTestPassesAndNoticesAnotherImage() {
        Session session = Fixtures.session();
        File image = new File(session.bundle.folder, session.bundle.selfTest.image);
        SelfTest passed = SelfTest.run(session, Fixtures.photo(image));
        assertTrue(passed.passed && passed.pixelsEqual);
        assertEquals(session.bundle.selfTest.text, passed.answer);
        SelfTest failed = SelfTest.run(session, Fixtures.photo((String) Fixtures.<Map<String, Object>>answers("self_test").get("wrong_image")));
        assertFalse(failed.passed || failed.pixelsEqual);
    }

    @Test
    public void promptBeyondTheCapacityIsRefused() {
        char[] much = new char[4000];
        Arrays.fill(much, '?');
        Session session = Fixtures.session();
        InputException error =
                assertThrows(
                        InputException.class,
                        () -> session.generate(new String(much), (ImageKV) null, Answer.greedy(4), new Answer()));
        assertTrue(error.getMessage(), error.getMessage().contains("context capacity is 512; shorten it"));
    }

    @Test
    public void answerEndsWhereTheCacheEnds() {
        Session session = Fixtures.session();
        TextProcessor text =
                new TextProcessor(
                        Tokenizer.load(new File(Fixtures.BUNDLE, "tokenizer.json"), Fixtures.rows()), session.bundle.template);
        StringBuilder prompt = new StringBuilder("what");
        while (text.encodeQuestion(prompt.toString()).length < 510) {
            prompt.append(" shape");
        }
        int length = text.encodeQuestion(prompt.toString()).length;
        Session.Options options = Answer.greedy(10_000);
        options.temperature = 8; // nearly every token is as likely: no early stop token
        Stats stats = session.generate(prompt.toString(), (ImageKV) null, options, new Answer());
        assertEquals(512 - length, stats.newTokens);
        assertEquals("length", stats.finishReason);
    }

    @Test
    public void emptyPromptIsRefused() {
        for (String prompt : new String[] {"", " \n\t\u3000"}) {
            InputException error =
                    assertThrows(
                            InputException.class,
                            () ->
                                    Fixtures.session()
                                            .generate(prompt, (ImageKV) null, Answer.greedy(4), new Answer()));
            assertEquals("the prompt is empty; ask something about the image", error.getMessage());
        }
    }

    @Test
    public void listenerCanEndTheAnswer() {
        Session session = Fixtures.session();
        Answer all = new Answer();
        Session.Photo photo = Fixtures.photo("easy-vqa-0.png");
        session.generate("Describe the image.", photo, Answer.greedy(16), all);
        assertEquals(3, all.tokens.size());
        int[] count = {0};
        session.generate("Describe the image.", photo, Answer.greedy(16), (token, text) -> ++count[0] < 2);
        assertEquals(2, count[0]);
    }

    @Test
    public void samplingIsRepeatable() {
        Session session = Fixtures.session();
        ImageKV image = session.encodeImage(Fixtures.photo("easy-vqa-1.png"));
        Set<String> answers = new HashSet<>();
        for (int seed = 0; seed < 20; seed++) {
            String[] twice = new String[2];
            for (int i = 0; i < 2; i++) {
                Session.Options options = Answer.greedy(12);
                options.temperature = 4;
                options.topP = 0.95;
                options.seed = seed;
                Answer answer = new Answer();
                session.generate("What is this?", image, options, answer);
                twice[i] = answer.tokens.toString();
            }
            assertEquals(twice[0], twice[1]);
            answers.add(twice[0]);
        }
        assertTrue("always the same", answers.size() > 5);
    }
}
