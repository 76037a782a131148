package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import dev.himix.edge.demo.AarProgram;
import java.io.File;
import java.util.List;
import java.util.Map;
import org.junit.AfterClass;
import org.junit.BeforeClass;
import org.junit.Test;

/**
 * The app's ExecuTorch kind on a real program: its code for ExecuTorch's library for Android, on stand-ins of that
 * library's classes which hand every call to ExecuTorch's Python runtime.
 */
public class ExecuTorchTest {
    private static final File BUNDLE = new File(System.getProperty("himix.executorch"));
    private static Session session;

    @BeforeClass
    public static void open() {
        Fixtures.loadRuntime();
        ExecuTorch.use(null);
        InputException without = assertThrows(InputException.class, () -> Bundle.open(BUNDLE));
        assertTrue(without.getMessage(), without.getMessage().contains("a bundle for executorch; this app runs"));
        ExecuTorch.use(AarProgram.loader());
        session = Session.open(BUNDLE, 0);
    }

    @AfterClass
    public static void close() {
        session.close();
        ExecuTorch.use(null);
    }

    @SuppressWarnings("unchecked")
    private static List<Map<String, Object>> questions() {
        return (List<Map<String, Object>>) Fixtures.json("answers/" + BUNDLE.getName() + ".json").get("questions");
    }

    private static Session.Options greedy() {
        Session.Options options = session.defaults();
        options.temperature = 0;
        options.maxNewTokens = 16;
        return options;
    }

    @Test
    public void questionsGiveThePythonSessionsTokens() {
        assertTrue(questions().size() >= 100);
        for (Map<String, Object> question : questions()) {
            Answer answer = new Answer();
            Session.Photo photo = Fixtures.photo((String) question.get("image"));
            session.generate((String) question.get("prompt"), photo, greedy(), answer);
            assertArrayEquals(question.toString(), Fixtures.ints(question.get("token_ids")), answer.ids());
        }
    }

    @Test
    public void aKeptImageAndASelfTest() {
        Map<String, Object> first = questions().get(0);
        ImageKV image = session.encodeImage(Fixtures.photo((String) first.get("image")));
        for (int i = 0; i < 2; i++) {
            Answer answer = new Answer();
            session.generate((String) first.get("prompt"), image, greedy(), answer);
            assertArrayEquals(Fixtures.ints(first.get("token_ids")), answer.ids());
        }
        File own = new File(session.bundle.folder, session.bundle.selfTest.image);
        assertEquals(session.bundle.selfTest.text, SelfTest.run(session, Fixtures.photo(own)).answer);
    }
}
