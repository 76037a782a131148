package dev.himix.edge;

import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLEncoder;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A bundle's folder, or a list of bundles, on a web server. Only https, or this very device. */
public final class WebSource implements Source {
    private static final int PATIENCE = 30_000; // milliseconds without a byte
    private static final Pattern RANGE = Pattern.compile("bytes ([0-9]{1,15})-.*");

    private final String folder; // ends with /

    /** Throws InputException for an address that is none, or none that is taken. */
    public WebSource(String folder) {
        check(folder);
        this.folder = folder.endsWith("/") ? folder : folder + "/";
    }

    /** Throws InputException for an address that is none, or none that is taken. */
    static URL check(String address) {
        try {
            URL url = new URL(address);
            String host = url.getHost();
            boolean here = host.equals("localhost") || host.equals("127.0.0.1");
            boolean plain = url.getUserInfo() == null && url.getQuery() == null && url.getRef() == null;
            if (url.getProtocol().equals("https") && !host.isEmpty() && plain
                    || url.getProtocol().equals("http") && here && plain) {
                return url;
            }
        } catch (MalformedURLException error) {
            throw new InputException("\"" + address + "\" is no address; it has to begin with https://");
        }
        throw new InputException(
                "\"" + address + "\" is not taken; an address begins with https:// and has no user, ? or #");
    }

    /** A small file at any address. Throws InputException if it cannot be had or has over {@code limit} bytes. */
    public static byte[] read(String address, int limit, Stop stop) {
        URL url = check(address);
        try (InputStream in = connect(url, 0).getInputStream()) {
            return Installing.all(in, limit, url.toString(), stop);
        } catch (IOException error) {
            throw new InputException(url + ": " + reason(error));
        }
    }

    @Override
    public Part open(String path, long from) throws IOException {
        StringBuilder address = new StringBuilder(folder);
        for (String piece : path.split("/")) {
            address.append(URLEncoder.encode(piece, "UTF-8").replace("+", "%20")).append('/');
        }
        address.setLength(address.length() - 1);
        HttpURLConnection connection = connect(new URL(address.toString()), from);
        String range = connection.getHeaderField("Content-Range");
        Matcher begins = RANGE.matcher(range == null ? "" : range);
        boolean part = connection.getResponseCode() == HttpURLConnection.HTTP_PARTIAL && begins.matches();
        return new Part(connection.getInputStream(), part ? Long.parseLong(begins.group(1)) : 0);
    }

    private static HttpURLConnection connect(URL url, long from) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) url.openConnection();
        connection.setConnectTimeout(PATIENCE);
        connection.setReadTimeout(PATIENCE);
        connection.setRequestProperty("Accept-Encoding", "identity"); // bytes are counted
        if (from > 0) {
            connection.setRequestProperty("Range", "bytes=" + from + "-");
        }
        int code = connection.getResponseCode();
        if (code != HttpURLConnection.HTTP_OK && code != HttpURLConnection.HTTP_PARTIAL) {
            connection.disconnect();
            throw new IOException("the server answers " + code);
        }
        return connection;
    }

    static String reason(IOException error) {
        return error.getMessage() == null ? error.getClass().getSimpleName() : error.getMessage();
    }

    @Override
    public void close() {}
}
